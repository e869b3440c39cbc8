"""What each button does. Values come and go by name: dict in, dict of changes out. No gradio."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from lib_addift.errors import JobError, PictureError
from lib_addift.hosts.prompt_tag.syntax import MERGE
from lib_addift.jobs.queue import Job, Jobs
from lib_addift.training.events import Request
from lib_addift.ui import queue, tools_view
from lib_addift.ui.background import report_error
from lib_addift.ui.batch import Batch
from lib_addift.ui.form import (
    PICTURES,
    Draft,
    Props,
    base_settings_of,
    config_of,
    form_of,
    method_values,
    preset_of,
    preset_values,
)
from lib_addift.ui.panels import Panels, job_id
from lib_addift.ui.tools import Tools
from lib_addift.ui.trial import Trial, TrialRequest

_RESTORED = '<span data-addift-restored="1"></span>'

Values = Mapping[str, Any]
Changes = dict[str, Any]


class Speaker(Protocol):
    """Who has handlers."""

    draft: Draft
    panels: Panels


S = TypeVar("S", bound=Speaker)


def report_errors_in(place: str) -> Callable[[Callable[[S, Values], Changes]], Callable[[S, Values], Changes]]:
    """The handler; what it refuses or fails to do becomes the sentence in `place`, then panels follow."""

    def wrap(handler: Callable[[S, Values], Changes]) -> Callable[[S, Values], Changes]:
        @functools.wraps(handler)
        def call(self: S, values: Values) -> Changes:
            changes: Changes = {}
            try:
                changes = handler(self, values)
            except Exception as error:
                self.draft.alerts[place] = report_error(error, f"the tab's '{handler.__name__}'")
            return {**self.panels.changes(values["seen"]), **changes}

        return call

    return wrap


_told = report_errors_in("alert")


class Handlers:
    """The tab's server side: one draft, the jobs and one test, whatever page asks."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.draft, self.trial, self.batch = jobs, Draft(), Trial(jobs.host), Batch(jobs)
        self.tools = Tools(jobs.host)
        self.panels = Panels(jobs, self.draft, self.trial, self.batch, self.tools)

    def restore(self, _values: Values) -> Changes:
        """A page was opened: everything is as it was."""
        draft = self.draft
        with draft.lock:
            form = {**draft.values, **self._pictures()}
        self.tools.refresh_names()
        panels = self.panels.changes("")
        overwrite = Props({**panels["overwrite"], "value": form.pop("overwrite")})
        batch = {"batch_folder": self.batch.folder, "batch_overwrite": self.batch.overwrite}
        filled = {**panels, **form, "overwrite": overwrite, **batch, **tools_view.restored(self.tools)}
        return {**filled, "page": _RESTORED, **self._test_fields()}

    @_told
    def refresh(self, _values: Values) -> Changes:
        """What has changed since the page last asked."""
        return {}

    @_told
    def keep_draft(self, values: Values) -> Changes:
        """Remember the form. A new name starts without permission to overwrite."""
        is_renamed = values["name"] != self.draft.values["name"]
        kept = {**values, "overwrite": False} if is_renamed else values
        self.draft.set_values(kept)
        return {}

    @_told
    def take_pictures(self, values: Values) -> Changes:
        """A picture was put in or taken out. A page that was not restored yet has nothing to say.

        Each slot speaks for itself: calls run at the same time, and an older one may end last.
        """
        if values["seen"]:
            self.draft.set_pictures(**{role: values[role] for role in PICTURES if role in values})
            self.draft.alerts["alert"] = ""
        return {}

    @_told
    def swap(self, values: Values) -> Changes:
        """The original becomes the target, and the target the original."""
        self.draft.set_pictures(original=values["target"], target=values["original"])
        return self._pictures()

    @_told
    def choose_preset(self, values: Values) -> Changes:
        """Fill in what the preset sets; everything else stays."""
        settings = preset_values(values["preset"])
        self.draft.set_values({**values, **settings})
        return settings

    @_told
    def choose_method(self, values: Values) -> Changes:
        """Fill in what the method sets; everything else stays."""
        settings = method_values(values["method"], values["preset"])
        self.draft.set_values({**values, **settings})
        return settings

    @_told
    def train(self, values: Values) -> Changes:
        """Queue a job for the form as it stands."""
        self.draft.alerts["alert"] = ""
        self.draft.set_values(values)
        self.draft.set_pictures(original=values["original"], target=values["target"])
        original, target = (self.draft.pictures[role] for role in PICTURES)
        if original is None or target is None:
            missing = "both pictures are" if original is target else f"the {'target' if original else 'original'} is"
            raise PictureError(f"{missing} missing: put two pictures that differ in one thing into the slots above.")
        name, overwrite = str(values["name"] or "").strip(), bool(values["overwrite"])
        job = self.jobs.submit(Request.of(original, target, name, config_of(values), overwrite=overwrite))
        self.draft.show(job.id)
        return self._test_fields()

    @_told
    def stop(self, _values: Values) -> Changes:
        self.jobs.stop(self._job().id)
        return {}

    @_told
    def stop_keep(self, _values: Values) -> Changes:
        self.jobs.stop(self._job().id, keep=True)
        return {}

    @_told
    def show_job(self, values: Values) -> Changes:
        """Look at another job of this session."""
        self.draft.show(job_id(values["jobs"]))
        return self._test_fields()

    @_told
    def look(self, values: Values) -> Changes:
        """Look at the kept step where the slider stands."""
        self.draft.step = int(values["scrub"] or 0)
        return {}

    @_told
    def save_step(self, _values: Values) -> Changes:
        """Save the kept step on show as a LoRA of its own; when it is saved, the newest file is shown."""
        self.draft.alerts["alert"] = ""
        job = self._job()
        snapshot = self.panels.shown_snapshot(job)
        if snapshot is None:
            raise JobError(f"'{job.name}' has no kept step: set 'Strip every' to some steps and train again.")
        self.jobs.save_step(job.id, snapshot.step)
        self.draft.choice = ""
        return {}

    @_told
    def choose(self, values: Values) -> Changes:
        """Look at another file of the job."""
        self.draft.choice = str(values["choice"] or "")
        return {}

    @_told
    def again(self, _values: Values) -> Changes:
        """Fill the form with what the job on show was asked."""
        return self._filled(self._job().request)

    @report_errors_in("batch_alert")
    def look_at_folder(self, values: Values) -> Changes:
        """Look at a folder of sets, with the settings of the form for all of them."""
        self.draft.alerts["batch_alert"] = ""
        self.batch.scan(str(values["batch_folder"] or ""), self._settings(), overwrite=bool(values["batch_overwrite"]))
        return {}

    @report_errors_in("batch_alert")
    def allow_overwriting(self, values: Values) -> Changes:
        """The permission was given or taken back: other sets of the folder on show can be trained now."""
        return self.look_at_folder(values) if self.batch.rows else {}

    @report_errors_in("batch_alert")
    def train_all(self, values: Values) -> Changes:
        """Queue the sets on show that can be trained."""
        self.draft.alerts["batch_alert"] = ""
        self.batch.queue_all(self._settings(), overwrite=bool(values["batch_overwrite"]))
        return {}

    @report_errors_in("queue_alert")
    def act(self, values: Values) -> Changes:
        """A button in a row of the queue was pressed: 'retry 1234abcd'."""
        action, _, job = str(values["act"] or "").partition(" ")
        self.draft.alerts["queue_alert"] = ""
        if not action:  # the script has told of it already
            return {}
        if action not in ("show", "repeat"):
            queue.act(self.jobs, action, job)
            return {}
        self.draft.show(self.jobs.get(job).id)
        filled = self._filled(self._job().request) if action == "repeat" else {}
        return {**filled, **self._test_fields()}

    @report_errors_in("queue_alert")
    def pause(self, _values: Values) -> Changes:
        """Begin no further job."""
        self.jobs.pause()
        return {}

    @report_errors_in("queue_alert")
    def resume(self, _values: Values) -> Changes:
        self.jobs.resume()
        return {}

    def _settings(self) -> dict[str, Any]:
        return base_settings_of(self.draft.values)

    def _filled(self, request: Request) -> Changes:
        """The form as for this request, taken over into the draft."""
        self.draft.set_pictures(original=request.pairs[0].original, target=request.pairs[0].target)
        form = form_of(request, preset_of(request.config))
        self.draft.set_values(form)
        self.draft.alerts["alert"] = ""
        del form["overwrite"]
        return {**form, **self._pictures()}

    @_told
    def test(self, values: Values) -> Changes:
        """Draw one prompt at several weights of the LoRA on show, with the host's own pipeline."""
        job = self._job()
        result = self.panels.shown_result(job)
        if result is None:
            raise JobError("there is no LoRA to test yet: train one.")
        height, width = job.pair.original.shape[:2]
        try:
            request = TrialRequest(
                result.path.stem, str(values["test_prompt"] or ""), str(values["test_negative"] or ""),
                _seed(values["test_seed"]), width, height, job.request.config.preview_cfg_scale,
                mode=str(values["test_mode"] or MERGE),
            )  # fmt: skip
            self.trial.start(request)
        except JobError as error:  # said beside its own button
            self.trial.task.set_error(str(error))
        return {}

    def _job(self) -> Job:
        job = self.panels.shown_job()
        if job is None:
            raise JobError("nothing was trained yet: put in two pictures and press Train.")
        return job

    def _pictures(self) -> Changes:
        return dict(self.draft.pictures)

    def _test_fields(self) -> Changes:
        """The test's box, filled as for the latest test or for the job on show."""
        job, asked = self.panels.shown_job(), self.trial.request
        if asked is not None and job is not None and any(r.path.stem == asked.lora for r in job.results):
            return {
                "test_prompt": asked.prompt, "test_negative": asked.negative_prompt, "test_seed": asked.seed,
                "test_mode": asked.mode,
            }  # fmt: skip
        if job is None:
            return {}
        config = job.request.config
        return {"test_prompt": config.preview_prompt or config.prompt, "test_seed": config.seed}


def _seed(value: Any) -> int:
    if value is None or value != int(value) or not 0 <= value < 2**32:
        raise JobError("the seed of the test must be a whole number from 0 to 4294967295.")
    return int(value)
