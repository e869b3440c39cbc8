"""The panels: what the tab shows besides the form, sent only when it has changed. No gradio."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import examine, mask_overlay
from lib_addift.data.pairs import load_pair
from lib_addift.errors import AddiftError, ConfigError, LoraFileError
from lib_addift.jobs.files import KeptResult, KeptSnapshot
from lib_addift.jobs.queue import Job, Jobs
from lib_addift.lora.file import LORA_SUFFIXES, check_name
from lib_addift.ui import batch_view, queue, render, tools_view
from lib_addift.ui.batch import Batch
from lib_addift.ui.form import PICTURES, Draft, Props, base_settings_of, config_of
from lib_addift.ui.tools import Tools
from lib_addift.ui.trial import Trial

PANELS = (
    "doctor", "name_note", "overwrite", "settings_note", "alert", "jobs", "progress", "live", "stop", "stop_keep",
    "kept", "scrub", "strip", "again", "finish", "choice", "result", "test_grid",
    "batch_hint", "batch_alert", "batch_faces", "batch", "batch_train",
    "queue_alert", "queue_faces", "queue", "queue_news", "pause", "resume", *tools_view.TOOLS_PANELS,
)  # fmt: skip

Panel = tuple[object, Callable[[], Any]]  # a key that changes when the content does, and what makes the content


class Panels:
    """Makes the panels from the jobs, the draft, the test, the batch and the tools."""

    def __init__(self, jobs: Jobs, draft: Draft, trial: Trial, batch: Batch, tools: Tools) -> None:
        self._jobs, self._draft, self._trial, self._batch, self._tools = jobs, draft, trial, batch, tools
        self._thumbnails: dict[str, Image.Image | None] = {}  # by job
        self._doctor: tuple[object, str] = (None, "")  # key and HTML of the latest: examining a pair takes a while

    def changes(self, seen: str) -> dict[str, Any]:
        """The panels that have changed since the call that returned `seen`, by name; with them the new `seen`.

        Args:
            seen: digests of the keys of the panels that a page has, as JSON; '' for a page that has none.
        """
        known: dict[str, str] = json.loads(seen or "{}")
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

    def _panels(self) -> dict[str, Panel]:
        return {
            **self._form_panels(), **self._job_panels(self.shown_job()), "test_grid": self._test_panel(),
            **self._batch_panels(), **self._queue_panels(), **tools_view.panels(self._tools),
        }  # fmt: skip

    def _form_panels(self) -> dict[str, Panel]:
        draft, values = self._draft, dict(self._draft.values)
        name, is_taken = str(values["name"] or ""), self._is_taken(str(values["name"] or ""))
        settings_problem = _settings_problem(values)
        return {
            "doctor": self._doctor_panel(values),
            "name_note": ((name, is_taken), lambda: _about_name(name, is_taken)),
            # Each name needs a permission of its own, so that a change of the name takes it back.
            "overwrite": ((name, is_taken), lambda: Props(visible=is_taken, value=False)),
            "settings_note": (settings_problem, lambda: render.error(settings_problem)),
            **{place: (text, functools.partial(render.error, text)) for place, text in draft.alerts.items()},
        }

    def _doctor_panel(self, values: Mapping[str, Any]) -> Panel:
        key = (*self._draft.digests.values(), *(values[name] for name in ("align", "mask", "mask_file", "resolution")))
        return key, lambda: self._doctor_html(key, values)

    def _doctor_html(self, key: object, values: Mapping[str, Any]) -> str:
        if self._doctor[0] != key:
            self._doctor = key, _make_doctor(self._draft, values, self._jobs.host.picture_side)
        return self._doctor[1]

    def _is_taken(self, name: str) -> bool:
        try:
            folder = self._jobs.host.lora_dir
            return bool(name) and any((folder / f"{check_name(name)}{suffix}").exists() for suffix in LORA_SUFFIXES)
        except (LoraFileError, OSError):
            return False

    def _job_panels(self, job: Job | None) -> dict[str, Panel]:
        jobs = self._jobs.all()
        active = self._jobs.active()
        other = active if active is not job else None
        is_busy = job is not None and not job.has_ended
        can_repeat = job is not None and not is_busy and len(job.request.pairs) == 1  # the form has room for one pair
        labels = [_label(each) for each in reversed(jobs)]
        key = (job and (job.id, job.version, job.state.value), other and other.id)
        return {
            "jobs": (
                (labels, job and job.id),
                lambda: Props(choices=labels, value=job and _label(job), visible=len(labels) > 1),
            ),
            "progress": (key, lambda: render.progress(job, other)),
            "live": (render.announcement(job), lambda: render.announcement(job)),
            "stop": (is_busy, lambda: Props(visible=is_busy)),
            "stop_keep": (is_busy, lambda: Props(visible=is_busy)),
            "again": (can_repeat, lambda: Props(visible=can_repeat)),
            **self._kept_panels(job),
            **self._result_panels(job),
        }

    def _kept_panels(self, job: Job | None) -> dict[str, Panel]:
        snapshot = self.shown_snapshot(job) if job else None
        steps = [kept.step for kept in job.snapshots] if job else []
        can_scrub = job is not None and job.has_ended and bool(steps)
        return {
            "kept": (can_scrub, lambda: Props(visible=can_scrub)),
            "scrub": ((job and job.id, steps, can_scrub), lambda: _slider(steps, snapshot)),
            "strip": (
                (job and job.id, snapshot and snapshot.step),
                lambda: render.strip(snapshot.strip, snapshot.step, job.total) if job and snapshot else "",
            ),
        }

    def _result_panels(self, job: Job | None) -> dict[str, Panel]:
        result = self.shown_result(job) if job else None
        results = list(job.results) if job else []
        names = list(dict.fromkeys(each.path.stem for each in results))
        key = (job and job.id, names, len(results), result and result.path.stem)
        others = [each for each in results if result and each.path.stem != result.path.stem]
        return {
            "finish": (result is not None, lambda: Props(visible=result is not None)),
            "choice": (
                key,
                lambda: Props(choices=names, value=result.path.stem if result else None, visible=len(names) > 1),
            ),
            "result": (key, lambda: render.result(result, others) if result else ""),
        }

    def _test_panel(self) -> Panel:
        trial = self._trial
        task = trial.task
        return task.version, lambda: render.grid(trial.row(), trial.text, task.error, is_running=task.is_busy)

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
            "queue_news": ([(job.id, job.version) for job in running], lambda: queue.progress_updates(running)),
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


def job_id(label: str | None) -> str:
    """The id of the job behind an entry of the list of jobs; '' for none."""
    return str(label or "").rpartition("#")[2]


def _label(job: Job) -> str:
    return f"{job.name} - {job.state.value} #{job.id}"


def _slider(steps: list[int], snapshot: KeptSnapshot | None) -> Props:
    """From the first to the last kept step, in strides that stop at each of them."""
    if len(steps) < 2 or snapshot is None:
        return Props(visible=False)
    stride = functools.reduce(math.gcd, (step - steps[0] for step in steps))
    return Props(minimum=steps[0], maximum=steps[-1], step=stride, value=snapshot.step, visible=True)


def _about_name(name: str, is_taken: bool) -> str:
    """What is wrong with the name, or that it is taken."""
    if not name:
        return ""
    try:
        check_name(name)
    except LoraFileError as error:
        return render.error(str(error))
    return render.note("a LoRA of this name exists: allow overwriting, or choose another name") if is_taken else ""


def _settings_problem(values: Mapping[str, Any]) -> str:
    """Why the settings of the form cannot be used, or ''."""
    try:
        config_of(values)
    except ConfigError as error:
        return str(error)
    return ""


def _make_doctor(draft: Draft, values: Mapping[str, Any], picture_side: int | None) -> str:
    """The doctor's panel for the pictures in the draft."""
    original, target = (draft.pictures[role] for role in PICTURES)
    if original is None or target is None:
        missing = "two pictures" if original is target else "the original" if original is None else "the target"
        return render.note(f"put in {missing}, and the pair doctor looks at the pair")
    try:
        try:
            config = config_of(values)
        except ConfigError:  # shown as settings_note; the pictures can be examined all the same
            config = TrainConfig()
        pair = load_pair(original, target, config)
        return render.doctor(examine(pair, picture_side).findings, mask_overlay(pair))
    except AddiftError as error:
        return render.error(str(error))
