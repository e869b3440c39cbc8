"""The panels: what the tab shows besides what is typed into it, sent only when it has changed. No gradio."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image

from lib_addift.jobs.files import KeptResult, KeptSnapshot
from lib_addift.jobs.queue import Job, Jobs
from lib_addift.ui import batch_view, job_view, queue, render, result_view, tools_view
from lib_addift.ui.batch import Batch
from lib_addift.ui.drawing import PairDrawing
from lib_addift.ui.form import Draft, Props, base_settings_of
from lib_addift.ui.form_panels import FORM_PANELS, FormPanels, Panel
from lib_addift.ui.pace import pace
from lib_addift.ui.tools import Tools
from lib_addift.ui.trial import Trial

PANELS = (
    *FORM_PANELS, "alert", "jobs", "progress", "live", "stop", "stop_keep", "kept", "scrub", "strip", "again",
    "finish", "insert", "try", "choice", "result", "test_grid",
    "batch_hint", "batch_alert", "batch_faces", "batch", "batch_train",
    "queue_alert", "queue_faces", "queue", "queue_news", "pause", "resume", *tools_view.TOOLS_PANELS,
)  # fmt: skip


class Panels:
    """Makes the panels from the jobs, the draft, the test, the batch, the tools and the drawing of pairs."""

    def __init__(
        self, jobs: Jobs, draft: Draft, trial: Trial, batch: Batch, *, tools: Tools, drawing: PairDrawing
    ) -> None:
        self._jobs, self._draft, self._trial, self._batch, self._tools = jobs, draft, trial, batch, tools
        self._form = FormPanels(jobs, draft, drawing)
        self._thumbnails: dict[str, Image.Image | None] = {}  # by job

    def changes(self, seen: str) -> dict[str, Any]:
        """The panels that have changed since the call that returned `seen`, by name; with them the new `seen`.

        Args:
            seen: digests of the keys of the panels that a page has, as JSON; '' for a page that has none.
        """
        known: dict[str, str] = json.loads(seen or "{}")
        with self._draft.lock:  # so that what the slots show and which pair that is are of one moment
            panels = {name: (_digest(key), make) for name, (key, make) in self._panels().items()}
            changes = {name: make() for name, (digest, make) in panels.items() if known.get(name) != digest}
        if changes:
            changes["seen"] = json.dumps({name: digest for name, (digest, _make) in panels.items()})
        return changes

    def shown_job(self) -> Job | None:
        """The job on show: the one chosen, or else the one that runs, or the latest."""
        chosen = next((job for job in self._jobs.all() if job.id == self._draft.job_id), None)
        return chosen or self._jobs.active() or self._jobs.latest()

    def shown_result(self, job: Job) -> KeptResult | None:
        """The saved file on show: the one chosen, or else the newest."""
        results = job.results
        chosen = (result for result in results if result.path.stem == self._draft.choice)
        return next(chosen, results[-1] if results else None)

    def shown_snapshot(self, job: Job) -> KeptSnapshot | None:
        """The kept step nearest to the one chosen; the last one while the job runs or when none was chosen."""
        kept, step = list(job.snapshots), self._draft.step
        if not kept or not step or not job.has_ended:
            return kept[-1] if kept else None
        return min(kept, key=lambda snapshot: abs(snapshot.step - step))

    def job_id(self, label: str | None) -> str:
        """The id of the job behind an entry of the list of jobs; '' for none."""
        return next((key for key, text in job_view.labels(self._jobs.all()).items() if text == label), "")

    def _panels(self) -> dict[str, Panel]:
        return {
            **self._form.all(), **self._job_panels(self.shown_job()), "test_grid": self._test_panel(),
            **self._batch_panels(), **self._queue_panels(), **tools_view.panels(self._tools),
        }  # fmt: skip

    def _job_panels(self, job: Job | None) -> dict[str, Panel]:
        jobs = self._jobs.all()
        active = self._jobs.active()
        other = active if active is not job else None
        is_busy = job is not None and not job.has_ended
        can_repeat = job is not None and not is_busy and queue.fits_the_form(job)
        labels = job_view.labels(jobs)
        choices = list(reversed(labels.values()))
        key = (job and (job.id, job.version, job.state.value, pace(job).key), other and other.id)
        return {
            "jobs": (
                (choices, job and job.id),
                lambda: Props(choices=choices, value=job and labels.get(job.id), visible=len(choices) > 1),
            ),
            "progress": (key, lambda: job_view.progress(job, other)),
            "live": (job_view.announcement(job), lambda: job_view.announcement(job)),
            "stop": (is_busy, lambda: Props(visible=is_busy)),
            "stop_keep": (is_busy, lambda: Props(visible=is_busy)),
            "again": (can_repeat, lambda: Props(visible=can_repeat)),
            **self._kept_panels(job),
            **self._result_panels(job),
        }

    def _kept_panels(self, job: Job | None) -> dict[str, Panel]:
        steps = [kept.step for kept in job.snapshots] if job else []
        can_scrub = job is not None and job.has_ended and bool(steps)
        snapshot = self.shown_snapshot(job) if job else None
        return {
            "kept": (can_scrub, lambda: Props(visible=can_scrub)),
            "scrub": ((job and job.id, steps, can_scrub), lambda: _slider(steps, snapshot)),
            "strip": self._strip_panel(job, snapshot),
        }

    def _strip_panel(self, job: Job | None, snapshot: KeptSnapshot | None) -> Panel:
        """The strip of the file on show, or that of a kept step where one was chosen or nothing is saved yet."""
        result = self.shown_result(job) if job and job.has_ended else None
        if job is None or (snapshot is None and result is None):
            return "", lambda: ""
        if result is None or (snapshot and self._draft.step):
            assert snapshot is not None
            is_saved = snapshot.step == job.total
            make = lambda: result_view.strip(snapshot.strip, snapshot.step, job.total, is_saved=is_saved)  # noqa: E731
            return (job.id, snapshot.step, "step"), make
        shown = result
        make = lambda: result_view.strip(shown.strip, shown.steps, job.total, is_saved=True)  # noqa: E731
        return (job.id, len(job.results), shown.path.stem), make

    def _result_panels(self, job: Job | None) -> dict[str, Panel]:
        result = self.shown_result(job) if job else None
        results = list(job.results) if job else []
        names = list(dict.fromkeys(each.path.stem for each in results))
        is_previous = self._draft.is_refused and self._draft.alerts["alert"] != ""
        made = f"{job.id}-{len(results)}" if job else ""
        key = (made, names, result and result.path.stem)
        others = [each for each in results if result and each.path.stem != result.path.stem]
        return {
            "finish": (result is not None, lambda: Props(visible=result is not None)),
            "try": (result is not None, lambda: Props(visible=result is not None)),
            "insert": (is_previous, lambda: Props(visible=not is_previous)),
            "choice": (
                key,
                lambda: Props(choices=names, value=result.path.stem if result else None, visible=len(names) > 1),
            ),
            "result": (
                (key, is_previous),
                lambda: result_view.result(result, others, is_previous=is_previous, made=made) if result else "",
            ),
        }

    def _test_panel(self) -> Panel:
        trial = self._trial
        task = trial.task
        return task.version, lambda: result_view.grid(trial.row(), trial.text, task.error, is_running=task.is_busy)

    def _batch_panels(self) -> dict[str, Panel]:
        batch, ready = self._batch, self._batch.ready_count
        is_stale = bool(batch.rows) and batch.settings != base_settings_of(self._draft.values)
        text = f"Train all {ready}" if ready > 1 else "Train it"
        return {
            "batch_hint": (is_stale, lambda: batch_view.hint(is_stale=is_stale)),
            "batch_faces": (batch.scans, lambda: batch_view.thumbnail_styles(batch)),
            "batch": (batch.task.version, lambda: batch_view.table(batch)),
            "batch_train": (ready, lambda: Props(value=text, visible=ready > 0)),
        }

    def _queue_panels(self) -> dict[str, Panel]:
        jobs, is_paused, notice = self._jobs.all(), self._jobs.is_paused, self._jobs.notice
        rows = queue.display_order(jobs, self._jobs.queue())
        running = [job for job in rows if job.is_active and not job.is_queued]
        return {
            "queue_faces": (sorted(job.id for job in rows), lambda: self._thumbnail_styles(rows)),
            "queue": (
                (is_paused, notice, len(jobs), [queue.row_key(job) for job in rows]),
                lambda: queue.table(rows, len(jobs) - len(rows), is_paused=is_paused, notice=notice),
            ),
            "queue_news": (
                [(job.id, job.version, pace(job).key) for job in running],
                lambda: queue.progress_updates(running),
            ),
            "pause": (is_paused, lambda: Props(visible=not is_paused)),
            "resume": (is_paused, lambda: Props(visible=is_paused)),
        }

    def _thumbnail_styles(self, jobs: Sequence[Job]) -> str:
        """The style sheet with the jobs' thumbnails; each file is read once."""
        known = self._thumbnails
        self._thumbnails = {job.id: known.get(job.id) or job.thumbnail for job in jobs}
        return render.thumbnail_styles({job_id: picture for job_id, picture in self._thumbnails.items() if picture})


def _digest(key: object) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:12]


def _slider(steps: list[int], snapshot: KeptSnapshot | None) -> Props:
    """From the first to the last kept step, in strides that stop at each of them."""
    if len(steps) < 2 or snapshot is None:
        return Props(visible=False)
    stride = functools.reduce(math.gcd, (step - steps[0] for step in steps))
    return Props(minimum=steps[0], maximum=steps[-1], step=stride, value=snapshot.step, visible=True)
