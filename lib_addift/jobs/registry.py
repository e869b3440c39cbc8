"""The jobs of a store in this process's memory, kept in step with what other processes do to them."""

from __future__ import annotations

import json
import logging
import threading
import time

from lib_addift.diffusion.host import Host
from lib_addift.jobs.job import Job, JobState
from lib_addift.jobs.restore import restored
from lib_addift.jobs.store import JobRow, JobStore, is_job_id

_log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between two looks at what other processes have done


class JobRegistry:
    """Every change happens under `changed`, in the database and in memory, so that neither is older than the other."""

    def __init__(self, host: Host, store: JobStore) -> None:
        self.host, self.store = host, store
        self.changed = threading.Condition()
        self.jobs: dict[str, Job] = {}  # the oldest first
        self.going: dict[str, Job] = {}  # those that this process works on: its memory is newer than the database
        self.ours: set[str] = set()  # those that were asked for in this process
        self._rows: dict[str, JobRow] = {}  # as they were last read
        self._looked = 0.0
        self.look(at_once=True)

    def look(self, *, at_once: bool = False) -> None:
        """Take over what other processes have changed, once a second at most."""
        with self.changed:
            now = time.monotonic()
            if self._looked and not at_once and (not self.store.is_shared or now - self._looked < LOOK_EVERY):
                return
            self._looked = now
            if self.store.has_changed():
                self._read()
                self.changed.notify_all()

    def _read(self) -> None:
        before, self._rows = self._rows, {row.id: row for row in self.store.rows()}
        for row in self._rows.values():
            if row != before.get(row.id):
                self._take_over(row, before.get(row.id, row).request)
        self.jobs = {job_id: self.jobs[job_id] for job_id in self._rows if job_id in self.jobs}

    def _take_over(self, row: JobRow, request_before: str) -> None:
        if not is_job_id(row.id):
            _log.warning("a row of '%s' has no job's id, so it is left out: %r", self.store.folder, row.id)
            return
        job = self.jobs.get(row.id)
        if job is None or (row.id not in self.going and (job.problem or row.request != request_before)):
            job = self.jobs[row.id] = self._restored(row)
        elif row.id not in self.going:
            job.drop_run()
            try:
                job.restore(json.loads(row.record))
                job.state = JobState(row.state)
            except (LookupError, TypeError, ValueError):
                job = self.jobs[row.id] = self._restored(row)
        job.saving = row.saves
        if job.has_ended:
            job.is_stopping = job.keeps = False
        elif row.stop and (not job.is_stopping or (row.keep and not job.keeps)):
            job.stop(bool(row.keep))
            job.version += 1

    def _restored(self, row: JobRow) -> Job:
        return restored(row, self.host, self.store.files(row.id))

    def add(self, job: Job, request: dict[str, object]) -> None:
        """Put a new job at the end of the queue. Raises JobError when its name is at work."""
        with self.changed:
            self.store.add(job.id, job.name, request, job.record())
            self.jobs[job.id] = job
            self.ours.add(job.id)

    def write(self, job: Job) -> None:
        """Bring the database up to date with a job that this process works on."""
        with self.changed:
            self.store.write(job.id, job.state.value, job.record())

    def end(self, job: Job, state: JobState, text: str, error: str = "") -> None:
        """A job has ended."""
        with self.changed:
            job.state, job.text, job.error = state, text, error
            job.seconds_left, job.finished = None, job.finished or time.time()
            job.version += 1
            job.note(f"{text}: {error}" if error else text)
            self.going.pop(job.id, None)
            self.write(job)
            self.changed.notify_all()

    def give_up(self, job: Job) -> None:
        """End a job that cannot be begun, for only a part of it can be read; its name is free then."""
        self.end(job, JobState.FAILED, "failed", job.problem)

    def queue(self) -> list[Job]:
        """The jobs that wait, the next one first."""
        with self.changed:
            return [self.jobs[job_id] for job_id in self.store.queue() if job_id in self.jobs]
