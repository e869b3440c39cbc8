"""What the worker asks of whoever does the jobs: this process, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from lib_addift.jobs.job import Job
from lib_addift.training.events import Event

Ending = BaseException | None  # of a job: why it failed, or None
TakeJob = Callable[[Callable[[Job], bool]], Job | None]
JobEvent = tuple[Job, Event | Ending]


class Runner(Protocol):
    """Does jobs: alone, several at once, or elsewhere."""

    def run(self, take: TakeJob) -> Iterator[JobEvent]:
        """Take queued jobs and do them, until there are no more.

        `take(fits)` gives the next one in the queue's order for which fits(job) is true, and marks it as running; or
        None. Yields each job's events, and at last an exception (the job failed: nothing is raised for one job's sake)
        or None (it ended: it is done or was stopped). Returns when `take` gives None and all that it took have ended.
        """
        ...
