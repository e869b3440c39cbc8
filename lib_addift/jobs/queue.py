"""Jobs: what the tab, the API and the command line start, watch and stop."""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lib_addift.config.presets import DEFAULT_PRESET
from lib_addift.diffusion.host import Host
from lib_addift.errors import HostError, JobError
from lib_addift.files import name_key
from lib_addift.jobs.files import without_shared_mask
from lib_addift.jobs.job import Job, JobState
from lib_addift.jobs.local_runner import LocalRunner
from lib_addift.jobs.registry import LOOK_EVERY, JobRegistry
from lib_addift.jobs.runner import Runner
from lib_addift.jobs.store import JobStore, name_at_work
from lib_addift.jobs.worker import Worker
from lib_addift.training.events import Request
from lib_addift.training.methods import make_config
from lib_addift.training.request import check_request

__all__ = ["Job", "JobState", "Jobs", "Runner"]


class Jobs:
    """The jobs of one host in one store, also those of earlier times and of other processes on the same store.

    Without a store they are forgotten with the process; without a runner they are done one after the other.
    """

    def __init__(self, host: Host, store: JobStore | None = None, runner: Runner | None = None) -> None:
        self.host = host
        self._store = store or JobStore.temporary()
        self._registry = JobRegistry(host, self._store)
        self._worker = Worker(self._registry, runner or LocalRunner(together=1))
        self._submitting = threading.Lock()  # one name is looked up and taken at a time; loading pictures takes long

    def start(self, after: float = 0.0) -> None:
        """Do what is in the queue, `after` so many seconds. A job that is submitted starts the queue as well."""
        self._worker.start(after)

    def close(self) -> None:
        """End after the current step; what runs goes back to the queue, to go on from its last resume state."""
        self._worker.close()

    def submit(self, request: Request) -> Job:
        """Queue a run. Bad input raises an AddiftError here, and nothing is queued."""
        with self._submitting:
            self._check_free(request.name)
            title = self.host.model_title
            report = check_request(request, self.host.lora_dir, self.host.picture_side).reports[0]
            job_id = uuid.uuid4().hex[:8]
            files = self._store.files(job_id)
            try:
                values = files.put_request(request)
                job = Job(job_id, files.request(values), self.host, files, title, report)
                job.note("queued")
                self._registry.add(job, values)
            except BaseException:
                shutil.rmtree(files.folder, ignore_errors=True)
                raise
        self.start()
        return job

    @contextmanager
    def held(self) -> Iterator[None]:
        """Begin no job inside the block, so that jobs which fit together are there together when the first begins."""
        self._worker.is_held = True
        try:
            yield
        finally:
            self._worker.is_held = False
            self.start()

    def retry(self, job_id: str, *, from_start: bool = False) -> Job:
        """Queue an ended job again: from its last resume state, or from the start where that is asked or it is done."""
        job = self.get(job_id)
        with self._submitting:
            is_whole = not job.problem
            self._let_go(job)
            if job.is_active:
                raise JobError(f"'{job.name}' is {job.state.value}: wait until it has ended, or stop it first.")
            self._check_free(job.name)
            goes_on = is_whole and not from_start and job.state is not JobState.DONE and job.files.has_resume_state
            title = job.model_title if goes_on else self.host.model_title
            if title != self.host.model_title:
                raise HostError(
                    f"'{job.name}' was begun with the model '{title}', and '{self.host.model_title}' is loaded: load "
                    "that one, or retry from the start."
                )
            overwrite = job.request.overwrite or job.is_writing
            prepared = check_request(
                replace(job.request, overwrite=overwrite), self.host.lora_dir, self.host.picture_side
            )
            with self._registry.changed:
                before, state, problem = job.record(), job.state, job.problem
                job.reset(from_start=not goes_on)
                job.model_title, job.version = title, job.version + 1
                job.partners = ()  # it goes on alone: they stand elsewhere
                job.note(f"queued again, to go on after step {job.step}" if goes_on else "queued again, from the start")
                values = None
                if not is_whole:
                    values, job.report = job.files.values(job.request), prepared.reports[0]
                if not self._store.requeue(job.id, job.name, job.record(), values):
                    job.restore(before)
                    job.state, job.problem = state, problem
                    raise JobError(f"'{job.name}' was changed by another program: look at it again.")
        self.start()
        return job

    def repeat(self, job_id: str, **changes: Any) -> Job:
        """Queue a new job like this one, but for its `name`, `overwrite` or any settings."""
        request = self.get(job_id).request
        name, overwrite = changes.pop("name", request.name), changes.pop("overwrite", request.overwrite)
        if {"mask", "mask_file"} & set(changes):
            request = without_shared_mask(request)
        config = make_config(DEFAULT_PRESET, **{**request.config.to_dict(), **changes})
        return self.submit(replace(request, name=name, overwrite=overwrite, config=config))

    def all(self) -> list[Job]:
        """Every job, the oldest first."""
        self._registry.look()
        with self._registry.changed:
            return list(self._registry.jobs.values())

    def queue(self) -> list[Job]:
        """The jobs that wait, the next one first."""
        self._registry.look()
        return self._registry.queue()

    def get(self, job_id: str) -> Job:
        """The job of this id. Raises JobError."""
        found = {job.id: job for job in self.all()}
        if job_id not in found:
            raise JobError(f"there is no job '{job_id}': it may have been removed, so list those that there are.")
        return found[job_id]

    def latest(self) -> Job | None:
        """The job that came last."""
        return next(reversed(self.all()), None)

    def active(self) -> Job | None:
        """The job that runs, or else the next one."""
        jobs = self.all()
        running = [job for job in jobs if job.is_running]
        return next(iter([*running, *self.queue(), *(job for job in jobs if job.is_active)]), None)

    def stop(self, job_id: str, keep: bool = False) -> None:
        """End a job after its current step; with `keep`, save what it learnt as NAME-stepN."""
        job = self.get(job_id)
        with self._registry.changed:
            if job.is_queued and self._cancel(job):
                return
            if not job.has_ended:
                self._store.ask_to_stop(job.id, keep)
                job.stop(keep)
                job.version += 1

    def _cancel(self, job: Job) -> bool:
        """Stop a job that waits, unless another process has begun it meanwhile."""
        record = {**job.record(), "text": "stopped before it began", "finished": time.time()}
        if not self._store.cancel(job.id, record):
            self._registry.look(at_once=True)
            return False
        self._registry.end(job, JobState.STOPPED, "stopped before it began")
        return True

    def move(self, job_id: str, before: str | None = None) -> None:
        """Move a job that waits to before another one, or to the end of the queue. Raises JobError."""
        names = [self.get(each).name for each in (job_id, before) if each is not None]
        with self._registry.changed:
            if not self._store.move(job_id, before):
                raise JobError(f"{' or '.join(map(repr, names))} waits no more: move jobs that are in the queue.")
            for job in self._registry.queue():
                job.version += 1

    def remove(self, job_id: str) -> None:
        """Forget an ended job, with its pictures and kept steps; the LoRAs that it saved stay. Raises JobError."""
        job = self.get(job_id)
        self._let_go(job)
        with self._registry.changed:
            if not self._store.remove(job_id):
                raise JobError(f"'{job.name}' has not ended: stop it before it is removed.")
            self._registry.jobs.pop(job_id, None)

    def pause(self) -> None:
        """Begin no further job; what runs goes on to its end. A restart does not change that."""
        self._store.pause(True)

    def resume(self) -> None:
        """Go on with the queue."""
        self._store.pause(False)
        self.start()

    @property
    def is_paused(self) -> bool:
        return self._store.is_paused

    @property
    def notice(self) -> str:
        """What a person should know of the store: that a damaged list of jobs was set aside; or ''."""
        return self._store.notice

    def save_step(self, job_id: str, step: int) -> Job:
        """Queue the saving of one of a job's snapshots as NAME-stepN. Raises JobError."""
        job = self.get(job_id)
        with self._registry.changed:
            kept = [snapshot.step for snapshot in job.snapshots]
            if step not in kept:
                choices = ", ".join(map(str, kept)) or "none"
                raise JobError(f"step {step} of '{job.name}' was not kept: choose one of the kept steps ({choices}).")
            self._store.add_save(job.id, step)
            job.saving += 1
            job.version += 1
        self.start()
        return job

    def wait(self, job_id: str, timeout: float | None = None) -> Job:
        """The job when nothing about it changes any more, or after `timeout` seconds as it is then."""
        job = self.get(job_id)
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._registry.changed:
            while job.is_active and (deadline is None or time.monotonic() < deadline):
                left = LOOK_EVERY if deadline is None else max(0.0, min(LOOK_EVERY, deadline - time.monotonic()))
                self._registry.changed.wait(left)
                self._registry.look()
        return job

    def _check_free(self, name: str) -> None:
        """Raises JobError for a name that is at work."""
        for job in self.all():
            if name_key(job.name) == name_key(name):
                self._let_go(job)
                if job.is_active:
                    raise name_at_work(name)

    def _let_go(self, job: Job) -> None:
        """A job that waits and of which only a part can be read is no longer in anybody's way."""
        if job.problem and job.is_queued:
            self._registry.give_up(job)
