"""A job: one training run, how it stands, and what it has made so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from PIL import Image

from lib_addift.data.checks import Finding, PairReport
from lib_addift.data.pairs import ImagePair, load_source
from lib_addift.diffusion.host import Host
from lib_addift.jobs.files import JobFiles, KeptResult, KeptSnapshot
from lib_addift.training.dataset import steps_of
from lib_addift.training.events import Event, Request, ResumeState, Snapshot, Stage
from lib_addift.training.run import TrainingRun
from lib_addift.training.search import new_run
from lib_addift.training.state import StepReport

WAITING = "waiting for its turn"
_MOST_LOG_LINES = 200
_LAST_DAY = 1e11  # seconds since 1970: in the year 5138
_PLAIN = ("text", "step", "losses", "error", "created", "started", "finished", "version", "is_writing")


class JobState(str, Enum):
    """Where a job is on its way."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(eq=False)
class Job:
    """One training run and how it stands. Only the worker writes while it runs; every thread may read."""

    id: str
    request: Request  # its pictures are the copies in the store
    host: Host = field(repr=False)
    files: JobFiles = field(repr=False)
    model_title: str  # of the model for which it was asked
    report: PairReport = field(repr=False)  # what the doctor says of the first pair
    state: JobState = JobState.QUEUED
    text: str = WAITING  # what it does now, or how it ended
    step: int = 0
    losses: list[float] = field(default_factory=list, repr=False)
    seconds_left: float | None = None  # of the training steps; None when not known
    snapshots: list[KeptSnapshot] = field(default_factory=list, repr=False)
    results: list[KeptResult] = field(default_factory=list, repr=False)  # the files written so far
    error: str = ""  # one sentence
    created: float = field(default_factory=time.time)  # seconds since 1970, as the next two
    started: float | None = None
    finished: float | None = None
    version: int = 0  # grows with every visible change
    keeps: bool = False  # when stopped, save what was learnt
    is_stopping: bool = False
    saving: int = 0  # kept steps that wait to be saved
    log: list[tuple[float, str]] = field(default_factory=list, repr=False)  # (seconds since 1970, what happened)
    is_writing: bool = False  # a LoRA file is being written: after a crash, what lies there is this job's own
    from_start: bool = False  # it is to begin anew: what an earlier attempt kept is not its own
    partners: tuple[str, ...] = ()  # the jobs of its passes, itself among them; () before its first step
    problem: str = ""  # one sentence where the store has only a part of it: then it is not begun

    def __post_init__(self) -> None:
        self.name, self.total = self.request.name, steps_of(self.request.config, self.request.pairs)
        self._run: TrainingRun | None = None
        self._making = threading.Lock()
        self._is_halted = False
        self._most_steps: int | None = None  # of the resume state from which it goes on
        self._pace: tuple[int, float] | None = None  # a step, and when it was done: since then steps follow each other
        self.seconds_a_step: float | None = None  # of training, as measured last in this process
        self.trained_at: float | None = None  # when its last training step was done, seconds since 1970

    @property
    def is_queued(self) -> bool:
        return self.state is JobState.QUEUED

    @property
    def is_running(self) -> bool:
        return self.state is JobState.RUNNING

    @property
    def has_ended(self) -> bool:
        return not (self.is_queued or self.is_running)

    @property
    def is_active(self) -> bool:
        """Whether anything about it may still change by itself."""
        return not self.has_ended or self.saving > 0

    @property
    def is_finished(self) -> bool:
        """Whether the LoRA that was asked for is there."""
        return any(result.path.stem == self.name for result in self.results)

    @property
    def progress(self) -> float:
        """Share of the training steps that are done, 0 to 1."""
        return self.step / self.total

    @property
    def thumbnail(self) -> Image.Image | None:
        """The first pair, small and side by side; None when its file is gone."""
        return self.files.thumbnail

    @property
    def pair(self) -> ImagePair:
        """The first pair as it is trained on."""
        if self._run is not None:
            return self._run.pair
        first = self.request.pairs[0]
        return load_source(first, self.request.config)

    @property
    def run(self) -> TrainingRun:
        """What does the work, made when it is first needed; it goes on from where the job stood.

        Raises an AddiftError when the request cannot be met any more.
        """
        with self._making:
            if self._run is None:
                self._run = self._make_run()
            if self.is_stopping or self._is_halted:  # said before there was a run
                self._run.stop()
            return self._run

    def _make_run(self) -> TrainingRun:
        resume_state = None if self.has_ended or self.from_start else self.files.resume_state(self._most_steps)
        # The finished LoRA's name is not needed for saving kept steps; after a crash, the file there is this job's own.
        is_ours = self.has_ended or self.is_writing
        run = new_run(
            self.host, replace(self.request, overwrite=True) if is_ours else self.request,
            keep_snapshots=True, resume_state=resume_state, model_title=self.model_title,
        )  # fmt: skip
        if self.has_ended and not self.is_writing:
            run.request = self.request  # whose name NAME-stepN takes no other file's place
        if not self.has_ended:
            self.step = resume_state.step if resume_state else 0
            del self.losses[self.step :]
        run.snapshots = {snapshot.step: snapshot for snapshot in self.snapshots}
        run.taken = {result.path.stem for result in self.results}
        return run

    def go_back(self, most_steps: int) -> None:
        """Go on from the last resume state of at most so many steps."""
        self.drop_run()
        self._most_steps = most_steps

    def drop_run(self) -> None:
        """Let go of the run and its memory; one is made anew when it is needed."""
        with self._making:
            self._run = None

    def stop(self, keep: bool) -> None:
        """End after the current step."""
        self.is_stopping, self.keeps = True, self.keeps or keep
        if self._run is not None:
            self._run.stop()

    def halt(self) -> None:
        """End after the current step, to go on from its last resume state later."""
        self._is_halted = True
        if self._run is not None:
            self._run.stop()

    def reset(self, *, from_start: bool) -> None:
        """Back into the queue: to before it was begun, or, not `from_start`, to where it can go on."""
        self.drop_run()
        self._is_halted, self.from_start, self._most_steps = False, from_start, None
        self.state, self.text, self.error, self.problem = JobState.QUEUED, WAITING, "", ""
        self.finished = self.seconds_left = None
        self.is_stopping = self.keeps = False
        if from_start:
            self.step, self.started, self.partners = 0, None, ()
            for items in (self.losses, self.snapshots, self.results):
                items.clear()

    def note(self, text: str) -> None:
        """Add a line to the log."""
        self.log.append((time.time(), text))
        del self.log[:-_MOST_LOG_LINES]

    def record_event(self, event: Event, report: Callable[[str, int, int], None]) -> None:
        """Record an event of its run, and `report` it to the host; what is to be kept goes to the disk first."""
        if isinstance(event, Snapshot):
            kept = self.files.put_snapshot(event)
            self.run.snapshots[event.step] = kept
            self.snapshots[:] = [*(other for other in self.snapshots if other.step != event.step), kept]
        elif isinstance(event, ResumeState):
            self.files.put_resume_state(event, keeps_last=len(self.partners) > 1)
            return
        elif isinstance(event, StepReport):
            now = time.monotonic()
            if self._pace is None:
                self._pace = event.step, now  # the first step's time counts warm-up, so the estimate starts after it
            else:
                begun, since = self._pace
                self.seconds_a_step = (now - since) / (event.step - begun)
                self.seconds_left = self.seconds_a_step * (event.total - event.step)
            self.step, self.text = event.step, "training"
            self.trained_at = time.time() if event.step == event.total else None
            if event.note:
                self.note(event.note)
            self.losses[event.step - 1 :] = [event.loss]  # a run may have gone back to its last resume state
            report(f"Train Difference LoRA: step {event.step} of {event.total}", event.step, event.total)
        else:
            self._record_stage(event)
            report(f"Train Difference LoRA: {event.text}", event.done, event.total)
        self.version += 1

    def _record_stage(self, stage: Stage) -> None:
        if stage.text != self.text:
            self.note(stage.text)
        self.text, self.seconds_left, self._pace = stage.text, None, None
        self.is_writing = self.is_writing or stage.text == "saving"

    def keep_results(self) -> bool:
        """Write the results that are new to the disk; returns whether there were any."""
        run = self._run
        if run is None:
            return False
        new = list(run.results)
        for result in new:
            kept = self.files.put_result(result)
            run.release(result)  # only now: a result that cannot be written is not lost
            # A job that went on from before this file was saved has saved it again.
            others = [other for other in self.results if other.path.name != result.path.name]
            self.results[:] = [*others, kept]
            self.note(f"saved '{result.path.stem}'")
        self.is_writing = self.is_writing and not new
        return bool(new)

    def record(self) -> dict[str, Any]:
        """Its state as JSON holds it. The files that it names are on the disk."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "is_fresh": self.from_start,  # the key of stores that exist
            "log": list(self.log),
            "steps": [snapshot.step for snapshot in list(self.snapshots)],
            "results": [result.values() for result in list(self.results)],
            "partners": list(self.partners),
            "model_title": self.model_title,
            "report": self.report.to_dict(),
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the state of a `record`. Raises LookupError, TypeError or ValueError when it is none."""
        _check(record)
        for name in _PLAIN:
            setattr(self, name, record[name])
        self.from_start = record["is_fresh"]
        self.partners = tuple(map(str, record.get("partners", ())))  # records of before there were any have none
        self.model_title = record["model_title"]
        self.log[:] = [(when, text) for when, text in record["log"]]
        self.snapshots[:] = [KeptSnapshot(self.files.folder, step) for step in record["steps"]]
        self.results[:] = [KeptResult.from_values(self.files.folder, values) for values in record["results"]]


def _check(record: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for values that would be met only later, when the job is shown."""
    for name, kinds in {"text": str, "error": str, "model_title": str, "step": int, "version": int}.items():
        if not isinstance(record[name], kinds):
            raise TypeError(f"{name} = {record[name]!r}")
    times = [record[name] for name in ("created", "started", "finished") if record[name] is not None]
    for when in (*times, *(when for when, _text in record["log"])):
        if not 0 <= when < _LAST_DAY:
            raise ValueError(f"{when} is no time")
    if not all(isinstance(loss, (int, float)) for loss in record["losses"]) or record["created"] is None:
        raise TypeError("no losses, or no time at which it was made")


def read_report(values: Mapping[str, Any]) -> PairReport:
    """The report that `PairReport.to_dict` has made JSON of."""
    findings = tuple(Finding(**finding) for finding in values["findings"])
    shift, colour_shift = tuple(values["shift"]), tuple(values["colour_shift"])
    return PairReport(**{**values, "shift": shift, "colour_shift": colour_shift, "findings": findings})
