"""How far a job is and how long it will take, with what follows its training steps: measuring, drawing, saving."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lib_addift.jobs.queue import Job, JobState
from lib_addift.training.estimate import passes, passes_after_training

_MOST = 0.98  # of the bar, before the job has ended


@dataclass(frozen=True)
class Pace:
    """Where a job stands."""

    share: float  # of all its work that is done, 0 to 1
    seconds_left: float | None = None  # of all its work; None: not known

    @property
    def key(self) -> object:
        """A value that changes when what is shown of it does."""
        return round(100 * self.share), None if self.seconds_left is None else round(self.seconds_left)


def pace(job: Job, now: float | None = None) -> Pace:
    """How far a job is at a time in seconds since 1970 (None: now)."""
    if job.state is JobState.DONE:
        return Pace(1.0)
    if not job.is_running:
        return Pace(job.progress)
    whole, after = passes(job.request.config, len(job.request.pairs)), _after(job)
    training = 1 - after / whole
    each = job.seconds_a_step
    rest = None if each is None else each * job.total * after / (whole - after)
    if job.step < job.total:
        left = None if rest is None or job.seconds_left is None else job.seconds_left + rest
        return Pace(training * job.progress, left)
    if rest is None or job.trained_at is None:
        return Pace(training)
    spent = (time.time() if now is None else now) - job.trained_at
    return Pace(min(_MOST, training + (1 - training) * spent / rest), max(0.0, rest - spent))


def _after(job: Job) -> float:
    return passes_after_training(job.request.config, len(job.request.pairs))
