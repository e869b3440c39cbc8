"""Does the jobs of a queue on the host's own model, several of them in joint training where they can share a pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing

import torch

from lib_addift.diffusion.memory import WITHOUT_GPU, MicroBatching, free_bytes
from lib_addift.errors import AddiftError, is_out_of_memory
from lib_addift.jobs.job import Job
from lib_addift.jobs.runner import JobEvent, Sharing, TakeJob
from lib_addift.training.joint import can_share, shared_settings, train_runs
from lib_addift.training.run import TrainingRun

_log = logging.getLogger(__name__)

_MOST_AT_ONCE = 16


class LocalRunner:
    """Does jobs on the host's own model: `together` at once where they can share a pass; 0 = as memory allows."""

    def __init__(self, together: int = 0) -> None:
        self._together = together

    def run(self, take: TakeJob) -> Iterator[JobEvent]:
        """See `Runner`."""
        while job := take(lambda _job: True):
            try:
                run = job.run
                count = self._together or room_for(run)
            except Exception as error:  # the request cannot be met any more: its file name is taken, say
                yield job, error
                continue
            jobs = [job]
            while (job.partners or len(jobs) < count) and (other := take(lambda each: _belongs(job, each))):
                jobs.append(other)
            jobs = _at_one_step(jobs)
            yield from ((each, Sharing(tuple(one.id for one in jobs))) for each in jobs if not each.partners)
            yield from _do(jobs)

    def close(self) -> None:
        """There is nothing to let go of."""


def _belongs(one: Job, other: Job) -> bool:
    """Whether two jobs share their passes: as before where one of them has begun, else if they can."""
    if one.partners or other.partners:
        return other.id in one.partners or one.id in other.partners
    return not (one.files.has_resume_state or other.files.has_resume_state) and _can_share(one, other)


def _at_one_step(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that shared their passes, in their order there, each gone back to the step from which all can go on."""
    order = max((job.partners for job in jobs), key=len)
    if order:
        jobs = sorted(jobs, key=lambda job: order.index(job.id) if job.id in order else len(order))
    first = min((job.run.steps_done for job in jobs if job.run.steps_done < job.total), default=None)
    for job in jobs:
        if first is not None and job.run.steps_done > first:
            job.go_back(first)
    return list(jobs)


def _can_share(one: Job, other: Job) -> bool:
    if shared_settings(one.request.config) != shared_settings(other.request.config):
        return False  # before a run of it is made, with all its pictures
    try:
        fits = can_share(one.run, other.run)
    except AddiftError:  # its own turn will say what is wrong with it
        return False
    if not fits:
        other.drop_run()
    return fits


def _do(jobs: Sequence[Job]) -> Iterator[JobEvent]:
    """Jobs that share a pass; when memory is full, in two halves. What is left to say of each: that it has ended."""
    by_run = {job.run: job for job in jobs}
    ended: set[TrainingRun] = set()
    try:
        with closing(train_runs(list(by_run))) as said:
            for run, event in said:
                if isinstance(event, Exception):
                    ended.add(run)
                yield by_run[run], event
    except Exception as error:
        left = [run for run in by_run if run not in ended]
        if not is_out_of_memory(error) or len(left) == 1:
            yield from ((by_run[run], error) for run in left)
            return
        _log.warning("%d LoRAs at once are too many for the memory: trying half as many", len(left))
        for run in left:
            run.restart()
        torch.cuda.empty_cache()
        middle = (len(left) + 1) // 2
        for half in (left[:middle], left[middle:]):
            yield from _do([by_run[run] for run in half])
        return
    yield from ((by_run[run], None) for run in by_run if run not in ended)


def room_for(run: TrainingRun) -> int:
    """How many runs like this one fit into one pass; where it is too many, the pass takes fewer samples at once."""
    height, width = run.pair.original.shape[:2]
    samples = run.config.batch_size * (2 if run.config.directions == "both" else 1)
    pixels: int = samples * height * width // 64
    free = free_bytes(torch.device("cuda")) if torch.cuda.is_available() else None
    if free is None:
        return max(1, min(_MOST_AT_ONCE, WITHOUT_GPU // pixels))
    whole_unet = run.config.blocks != ("OUT",)
    one = MicroBatching(samples, recomputes=False).needs(
        height * width // 64, whole_unet=whole_unet, element_size=2, family=run.host.family
    )
    return max(1, min(_MOST_AT_ONCE, free // one))
