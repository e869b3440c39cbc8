"""What the worker asks of whoever does the jobs: this process, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from lib_addift.jobs.job import Job
from lib_addift.training.events import Event


@dataclass(frozen=True)
class Sharing:
    """Before a job's first step: the ids of the jobs with which it shares its passes, itself among them, in order.

    How numbers are rounded depends on what goes through the model together, so a job that goes on after a crash has to
    share its passes with the same jobs as before.
    """

    partners: tuple[str, ...]


Ending = BaseException | None  # of a job: why it failed, or None
TakeJob = Callable[[Callable[[Job], bool]], Job | None]
JobEvent = tuple[Job, Event | Sharing | Ending]


class Runner(Protocol):
    """Does jobs: alone, several at once, or elsewhere."""

    def run(self, take: TakeJob) -> Iterator[JobEvent]:
        """Take queued jobs and do them, until there are no more.

        `take(fits)` gives the next one in the queue's order for which fits(job) is true, and marks it as running; or
        None. Yields each job's events, and at last an exception (the job failed: nothing is raised for one job's sake)
        or None (it ended: it is done or was stopped). Returns when `take` gives None and all that it took have ended.
        """
        ...
