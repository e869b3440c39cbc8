"""What each button of the tab 'Queue' does. No gradio."""

from __future__ import annotations

from collections.abc import Callable

from lib_addift.jobs.queue import Jobs
from lib_addift.ui.handlers import Changes, Handlers, Values, report_errors_in


class QueueHandlers:
    """The server side of the tab; it shares its state with the other tabs."""

    def __init__(self, handlers: Handlers) -> None:
        self._pair = handlers  # whose form a row's button can fill
        self.jobs, self.draft, self.panels = handlers.jobs, handlers.draft, handlers.panels

    @report_errors_in("queue_alert")
    def press(self, values: Values) -> Changes:
        """A button in a row was pressed; `act` names it and the job, as in 'retry 1234abcd'."""
        action, _, job_id = str(values["act"] or "").partition(" ")
        self.draft.alerts["queue_alert"] = ""
        if not action:  # an earlier call has brought it already
            return {}
        if action not in ("show", "repeat"):
            _change_job(self.jobs, action, job_id)
            return {}
        job = self.jobs.get(job_id)
        self.draft.show(job.id)
        filled = self._pair.fill_form(job.request) if action == "repeat" else {}
        return {**filled, **self._pair.test_fields()}

    @report_errors_in("queue_alert")
    def pause(self, _values: Values) -> Changes:
        """Start no further job."""
        self.jobs.pause()
        return {}

    @report_errors_in("queue_alert")
    def resume(self, _values: Values) -> Changes:
        """Start the jobs that wait, one after the other."""
        self.jobs.resume()
        return {}


def _change_job(jobs: Jobs, action: str, job_id: str) -> None:
    """Do what a row's button says. Raises an AddiftError."""
    job = jobs.get(job_id)
    waiting = [each.id for each in jobs.queue()]
    place = waiting.index(job.id) if job.id in waiting else 0
    actions: dict[str, Callable[[], object]] = {
        "stop": lambda: jobs.stop(job.id),
        "cancel": lambda: jobs.stop(job.id),
        "up": lambda: jobs.move(job.id, waiting[place - 1] if place else job.id),
        "down": lambda: jobs.move(job.id, next(iter(waiting[place + 2 :]), None)),
        "retry": lambda: jobs.retry(job.id),
        "fresh": lambda: jobs.retry(job.id, from_start=True),
        "remove": lambda: jobs.remove(job.id),
    }
    actions[action]()
