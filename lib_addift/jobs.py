"""Jobs: what the tab and the API start, watch and stop. One worker thread does them one after the other."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum

import torch

from lib_addift.errors import OUT_OF_MEMORY, AddiftError, JobError
from lib_addift.hosts.base import Host
from lib_addift.messages import Checkpoint, Events, Request, Result, Snapshot
from lib_addift.pipeline import TrainingRun
from lib_addift.trainer import StepReport

_log = logging.getLogger(__name__)

_JOBS_WITH_SNAPSHOTS = 5  # older jobs give theirs up: some MB for each kept step


class JobState(str, Enum):
    """Where a job is on its way."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(eq=False)
class Job:
    """One training run and how it stands. Only the worker writes; every thread may read."""

    run: TrainingRun
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    state: JobState = JobState.QUEUED
    text: str = "waiting for its turn"  # what it does now, or how it ended
    step: int = 0
    losses: list[float] = field(default_factory=list)
    seconds_left: float | None = None  # of the training steps; None when not known
    snapshots: list[Snapshot] = field(default_factory=list)
    error: str = ""  # one sentence
    created: float = field(default_factory=time.time)  # seconds since 1970, as the next two
    started: float | None = None
    finished: float | None = None
    version: int = 0  # grows with every visible change
    keeps: bool = False  # when stopped, save what was learnt
    saving: int = 0  # kept steps that wait to be saved

    def __post_init__(self) -> None:
        self.request, self.name = self.run.request, self.run.request.name
        self.pair, self.report = self.run.pair, self.run.pair_report
        self.total = self.run.config.max_train_steps

    @property
    def results(self) -> list[Result]:
        """The files written so far; of a job that is done, the finished LoRA is among them."""
        return self.run.results

    @property
    def is_active(self) -> bool:
        """Whether anything about it may still change by itself."""
        return self.state in (JobState.QUEUED, JobState.RUNNING) or self.saving > 0

    @property
    def progress(self) -> float:
        """Share of the training steps that are done, 0 to 1."""
        return self.step / self.total

    def follow(self, events: Events, report: Callable[[str, int, int], None]) -> None:
        """Run through `events`, which is what does the work, and take down what they say."""
        begun = time.monotonic()
        for event in events:
            if isinstance(event, Snapshot):
                self.snapshots.append(event)
            elif isinstance(event, Checkpoint):
                continue
            elif isinstance(event, StepReport):
                if event.step == 1:
                    begun = time.monotonic()  # the first step's time counts warm-up, so the estimate starts after it
                else:
                    self.seconds_left = (time.monotonic() - begun) / (event.step - 1) * (event.total - event.step)
                self.step, self.text = event.step, "training"
                self.losses.append(event.loss)
                report(f"Train Difference LoRA: step {event.step} of {event.total}", event.step, event.total)
            else:
                self.text, self.seconds_left = event.text, None
                report(f"Train Difference LoRA: {event.text}", event.done, event.total)
            self.version += 1


class Jobs:
    """The jobs of one host, in memory, in the order in which they came."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._jobs: dict[str, Job] = {}
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._changed = threading.Condition()
        self._submitting = threading.Lock()  # one name is looked up and taken at a time; loading pictures takes long

    def submit(self, request: Request) -> Job:
        """Queue a run. Bad input raises an AddiftError here, and nothing is queued."""
        with self._submitting:
            if any(job.name.casefold() == request.name.casefold() and job.is_active for job in self.all()):
                raise JobError(
                    f"'{request.name}' is being trained already: wait for it, stop it, or choose another name."
                )
            job = Job(TrainingRun(self.host, request, watched=True))
            with self._changed:
                self._jobs[job.id] = job
            self._do(lambda: self._train(job))
        return job

    def all(self) -> list[Job]:
        """Every job, the oldest first."""
        with self._changed:
            return list(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """The job of this id. Raises JobError."""
        with self._changed:
            if job_id not in self._jobs:
                raise JobError(f"there is no job '{job_id}': a restart forgets jobs, so list those that there are.")
            return self._jobs[job_id]

    def latest(self) -> Job | None:
        """The job that came last."""
        return next(reversed(self.all()), None)

    def active(self) -> Job | None:
        """The job that runs, or else the next one."""
        active = [job for job in self.all() if job.is_active]
        running = [job for job in active if job.state is JobState.RUNNING]
        return next(iter(running + active), None)

    def stop(self, job_id: str, keep: bool = False) -> None:
        """End a job after its current step; with `keep`, save what it learnt as NAME-stepN."""
        job = self.get(job_id)
        with self._changed:
            job.keeps = job.keeps or keep
            job.run.stop()
            if job.state is JobState.QUEUED:
                self._end(job, JobState.STOPPED, "stopped before it began")

    def save_step(self, job_id: str, step: int) -> Job:
        """Queue the saving of one of a job's snapshots as NAME-stepN. Raises JobError."""
        job = self.get(job_id)
        with self._changed:
            kept = [snapshot.step for snapshot in job.snapshots]
            if step not in kept:
                choices = ", ".join(map(str, kept)) or "none"
                raise JobError(f"step {step} of '{job.name}' was not kept: choose one of the kept steps ({choices}).")
            job.saving += 1
            job.version += 1
        self._do(lambda: self._save(job, step))
        return job

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job when nothing about it changes any more, or after `timeout` seconds as it is then."""
        job = self.get(job_id)
        with self._changed:
            self._changed.wait_for(lambda: not job.is_active, timeout)
        return job

    def _do(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)
        with self._changed:
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="addift", daemon=True)
                self._worker.start()

    def _work(self) -> None:
        while True:
            self._tasks.get()()

    def _train(self, job: Job) -> None:
        with self._changed:
            if job.state is not JobState.QUEUED:  # stopped while it waited
                return
            job.state, job.started, job.text = JobState.RUNNING, time.time(), "waiting for the WebUI to finish"
            job.version += 1
        self._forget_old_snapshots()
        error = self._attempt(job, job.run.events())
        was_finished = any(result.path.stem == job.name for result in job.results)
        if not error and not was_finished and job.keeps and job.step:
            error = self._attempt(job, job.run.keep())
        if error:
            self._end(job, JobState.FAILED, "failed", error)
        elif was_finished:
            self._end(job, JobState.DONE, job.results[-1].verdict)
        else:
            saved = f"saved: '{job.results[-1].path.stem}'" if job.results else "nothing was saved"
            self._end(job, JobState.STOPPED, f"stopped after {job.step} of {job.total} steps; {saved}")

    def _save(self, job: Job, step: int) -> None:
        text, failure = job.text, job.error if job.state is JobState.FAILED else ""
        error = self._attempt(job, job.run.keep(step))
        with self._changed:
            job.saving -= 1
            self._end(job, job.state, text, error or failure)

    def _attempt(self, job: Job, events: Events) -> str:
        """Run through `events`; returns the sentence about what went wrong, or nothing."""
        try:
            with closing(events):  # gives the model back now, not when the garbage is collected
                job.follow(events, self.host.report)
        except AddiftError as error:
            return str(error)
        except (torch.cuda.OutOfMemoryError, MemoryError):
            return OUT_OF_MEMORY
        except (Exception, SystemExit) as error:  # a job ends here, the worker goes on with the next one
            _log.exception("training '%s' failed", job.name)
            reason = (str(error).splitlines() or [""])[0].rstrip(". ")
            return f"unexpected {type(error).__name__}: {reason}. The console has the details."
        return ""

    def _end(self, job: Job, state: JobState, text: str, error: str = "") -> None:
        with self._changed:
            job.state, job.text, job.error = state, text, error
            job.seconds_left, job.finished = None, job.finished or time.time()
            job.version += 1
            self._changed.notify_all()

    def _forget_old_snapshots(self) -> None:
        over = [job for job in self.all() if job.snapshots and not job.is_active]
        for job in over[:-_JOBS_WITH_SNAPSHOTS]:
            job.snapshots.clear()
            job.run.snapshots.clear()
