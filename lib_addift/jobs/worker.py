"""The thread that does the jobs of a store, if no other process does, and takes over when that one dies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing

from lib_addift.errors import AddiftError, error_sentence, is_out_of_memory
from lib_addift.files import sweep_temporary
from lib_addift.jobs.job import WAITING, Job, JobState
from lib_addift.jobs.prune import forget_old_work
from lib_addift.jobs.registry import LOOK_EVERY, JobRegistry
from lib_addift.jobs.runner import Ending, Runner, Sharing
from lib_addift.jobs.store import Save
from lib_addift.training.events import Event, ResumeState, Snapshot, Stage

_log = logging.getLogger(__name__)

_MOST_INTERRUPTIONS = 3  # a job during which the program died so often may be the reason
_AFTER_TROUBLE = 5.0  # seconds


class Worker:
    """Does what is in the queue, in a daemon thread of its own."""

    def __init__(self, registry: JobRegistry, runner: Runner) -> None:
        self._registry, self._runner = registry, runner
        self._lock = registry.store.worker_lock()
        self._is_worker = self._is_closing = False
        self.is_held = False  # no further job is begun
        self._thread: threading.Thread | None = None
        self._begins = 0.0  # when, by the monotonic clock
        self._has_changes = False
        self._to_keep: list[Job] = []  # stopped, and what they learnt is to be saved
        self._failures: dict[str, BaseException] = {}  # events of jobs that go on which could not be recorded
        self._written: dict[str, float] = {}  # when each job was last written to the database

    def start(self, after: float = 0.0) -> None:
        """Begin, or look at once if there is something new; `after` so many seconds, if it has not begun yet."""
        with self._registry.changed:
            begins = time.monotonic() + after
            if self._thread is None:
                self._begins = begins
                self._thread = threading.Thread(target=self._work, name="addift", daemon=True)
                self._thread.start()
            self._begins, self._has_changes = min(self._begins, begins), True
            self._registry.changed.notify_all()

    def close(self) -> None:
        """End after the current step; jobs that run go back to the queue."""
        with self._registry.changed:
            self._is_closing = self._has_changes = True
            for job in self._registry.going.values():
                job.halt()
            self._registry.changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._is_closing:
            self._has_changes = False
            try:
                if time.monotonic() >= self._begins and self._has_the_lock():
                    self._save_what_waits()
                    self._train()
                self._registry.look()
            except Exception:  # the disk is full, say: later it may not be
                _log.exception("the queue of trainings stands still for %g seconds", _AFTER_TROUBLE)
                self._begins = time.monotonic() + _AFTER_TROUBLE
            self._rest()
        self._lock.release()

    def _rest(self) -> None:
        """Sleep until there is something new here, or until it is time to look what others have done."""
        soon = self._begins - time.monotonic()
        alone = None if self._is_worker and not self._registry.store.is_shared else LOOK_EVERY
        with self._registry.changed:
            if soon > 0:
                self._registry.changed.wait_for(lambda: self._is_closing or self._begins <= time.monotonic(), soon)
            else:
                self._registry.changed.wait_for(lambda: self._has_changes, alone)

    def _has_the_lock(self) -> bool:
        if not self._is_worker and self._lock.acquire():
            self._take_over()
            self._is_worker = True
        return self._is_worker

    # Jobs of a process that died

    def _take_over(self) -> None:
        """Jobs that run are those of a process that died: only the holder of the lock does any."""
        registry = self._registry
        with registry.changed:
            registry.look(at_once=True)
            registry.store.sweep()
            sweep_temporary(registry.host.lora_dir)
            for row in sorted(registry.store.rows(), key=lambda row: -row.position):  # each goes to the queue's head
                if row.id in registry.jobs and row.state == JobState.RUNNING.value:
                    self._recover(registry.jobs[row.id], row.interruptions + 1, was_stopped=bool(row.stop))
            registry.changed.notify_all()

    def _recover(self, job: Job, interruptions: int, *, was_stopped: bool) -> None:
        if job.is_finished:
            self._registry.end(job, JobState.DONE, job.results[-1].verdict)
        elif job.problem:
            self._registry.give_up(job)
        elif was_stopped:
            self._stopped(job)
        elif interruptions >= _MOST_INTERRUPTIONS:
            self._registry.end(
                job, JobState.FAILED, "failed",
                f"the program ended {interruptions} times while '{job.name}' was trained, so it is not tried again by "
                "itself: close what else needs memory, or lower its resolution, and retry it.",
            )  # fmt: skip
        else:
            self._put_back(job, interruptions, "the program ended; it will go on")

    def _put_back(self, job: Job, interruptions: int, why: str) -> None:
        with self._registry.changed:
            job.reset(from_start=False)
            job.version += 1
            job.note(why)
            self._registry.going.pop(job.id, None)
            self._registry.store.put_back(job.id, job.record(), interruptions)

    # Training

    def _train(self) -> None:
        """Let the runner do what is in the queue."""
        try:
            for job, event in self._runner.run(self._take):
                self._handle_event(job, event)
                self._registry.look()
        except (Exception, SystemExit) as error:  # the runner is broken, and with it all that it was doing
            for job in [job for job in self._registry.going.values() if job not in self._to_keep]:
                self._ended(job, error)
        self._save_what_waits()

    def _take(self, fits: Callable[[Job], bool]) -> Job | None:
        self._registry.look()
        store = self._registry.store
        # What waits to be saved goes first: the runner is done with its jobs soon and lets go of the model.
        if self._is_closing or self.is_held or self._to_keep or store.is_paused or store.saves():
            return None
        for job in self._registry.queue():
            if job.problem:
                self._registry.give_up(job)
            elif self._has_its_model(job) and fits(job) and self._begin(job):
                return job
        return None

    def _has_its_model(self, job: Job) -> bool:
        """A job from before a restart waits until its model is loaded; one of this process fails and says so."""
        title = job.model_title
        is_there = job.id in self._registry.ours or title == self._registry.host.model_title
        text = WAITING if is_there else f"waiting for the model '{title}': load it, and this goes on"
        if job.text != text:
            job.text, job.version = text, job.version + 1
        return is_there

    def _begin(self, job: Job) -> bool:
        registry = self._registry
        with registry.changed:
            if not registry.store.begin(job.id):  # stopped by another process
                return False
            registry.going[job.id] = job
            job.state, job.text = JobState.RUNNING, "waiting for the WebUI to finish"
            job.started, job.version = job.started or time.time(), job.version + 1
            job.note("began" if not job.files.has_resume_state or job.from_start else "goes on")
            registry.write(job)
            self._written[job.id] = time.monotonic()
        try:
            if job.from_start:
                job.files.forget()
                job.from_start = False
            forget_old_work(self._registry)
            _ = job.run  # made now: a request that cannot be met any more fails here
        except Exception as error:
            self._ended(job, error)
            return False
        if self._is_closing:
            job.halt()
        return True

    def _handle_event(self, job: Job, event: Event | Sharing | Ending) -> None:
        """Record an event of a job; if that fails, fail the job after its step."""
        if event is None or isinstance(event, BaseException):
            self._ended(job, event)
        elif job.id not in self._failures:
            try:
                self._record_event(job, event)
            except Exception as error:
                self._failures[job.id] = error
                job.halt()

    def _record_event(self, job: Job, event: Event | Sharing) -> None:
        now, registry = time.monotonic(), self._registry
        if isinstance(event, Sharing):
            job.partners = event.partners
            registry.write(job)
            return
        if isinstance(event, ResumeState):
            job.keep_results()
            registry.write(job)  # with the losses up to the checkpoint, before it
        job.record_event(event, registry.host.report)
        is_saved = job.keep_results()
        is_writing = isinstance(event, Stage) and job.is_writing
        if is_saved or is_writing or isinstance(event, Snapshot) or now - self._written.get(job.id, 0.0) >= LOOK_EVERY:
            registry.write(job)
            self._written[job.id] = now

    def _ended(self, job: Job, ending: Ending) -> None:
        error = self._failures.pop(job.id, None) or ending
        sentence = self._report(job, error) if error else self._kept_results(job)
        job.is_writing = False
        self._written.pop(job.id, None)
        if sentence:
            self._registry.end(job, JobState.FAILED, "failed", sentence)
        elif job.is_finished:
            job.files.forget(steps=False)
            self._registry.end(job, JobState.DONE, job.results[-1].verdict)
        elif self._is_closing and not job.is_stopping:
            self._put_back(job, 0, "the program was closed; it will go on")
        elif job.keeps and job.step:
            self._to_keep.append(job)
        else:
            self._stopped(job)

    def _stopped(self, job: Job) -> None:
        saved = f"saved: '{job.results[-1].path.stem}'" if job.results else "nothing was saved"
        self._registry.end(job, JobState.STOPPED, f"stopped after {job.step} of {job.total} steps; {saved}")

    def _kept_results(self, job: Job) -> str:
        """Put what is new to the disk; returns the sentence about what went wrong, or nothing."""
        try:
            job.keep_results()
        except Exception as error:
            return self._report(job, error)
        return ""

    # Saving

    def _save_what_waits(self) -> None:
        """What stopped jobs have learnt, and kept steps. Nothing is trained meanwhile."""
        while self._to_keep:
            job = self._to_keep.pop(0)
            error = self._attempt(job, None)
            job.is_writing = False
            if error:
                self._registry.end(job, JobState.FAILED, "failed", error)
            else:
                self._stopped(job)
        for save in self._registry.store.saves():
            self._save(save)

    def _save(self, save: Save) -> None:
        registry = self._registry
        registry.look(at_once=True)
        job = registry.jobs.get(save.job_id)
        if self._is_closing:
            return
        if job is None:  # left out, for it cannot be read
            registry.store.drop_save(save)
            return
        registry.going[job.id] = job
        text, failure = job.text, job.error if job.state is JobState.FAILED else ""
        if save.attempts < _MOST_INTERRUPTIONS:
            registry.store.begin_save(save)
            error = self._attempt(job, save.step)
        else:
            error = f"the program ended {save.attempts} times while step {save.step} was saved: train again to get it."
        with registry.changed:
            job.text, job.error, job.seconds_left, job.is_writing = text, error or failure, None, False
            job.note(f"step {save.step} was not saved: {error}" if error else f"step {save.step} is saved")
            job.saving -= 1
            job.version += 1
            registry.store.end_save(save, job.state.value, job.record())
            del registry.going[job.id]
            registry.changed.notify_all()

    def _attempt(self, job: Job, step: int | None) -> str:
        """Save a kept step of a job, or what it learnt; returns the sentence about what went wrong, or nothing."""
        try:
            with closing(job.run.keep(step)) as events:  # gives the model back now, not when the garbage is collected
                for event in events:
                    self._record_event(job, event)
        except (Exception, SystemExit) as error:  # a job ends here, the worker goes on with the next one
            return self._report(job, error)
        return self._kept_results(job)

    @staticmethod
    def _report(job: Job, error: BaseException) -> str:
        """What the person is told of an error; the log has the details of one that was not expected."""
        if not (isinstance(error, AddiftError) or is_out_of_memory(error)):
            _log.error("training '%s' failed", job.name, exc_info=error)
        return error_sentence(error)
