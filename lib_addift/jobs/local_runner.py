"""Several runs on one model in lockstep: the samples of all of them go through the UNet in one pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.memory import MicroBatching, free_bytes
from lib_addift.errors import AddiftError, TrainingError
from lib_addift.training.events import Event, Events
from lib_addift.training.loop import train
from lib_addift.training.methods import is_simple
from lib_addift.training.run import TrainingRun, timed

if TYPE_CHECKING:
    from lib_addift.jobs.queue import Job
    from lib_addift.jobs.worker import Said, Take

_log = logging.getLogger(__name__)

_MOST_AT_ONCE = 16
_CPU_LATENT_PIXELS = 2 * 64 * 64  # in one pass: without a GPU more at once is no faster, and memory is short

RunSaid = tuple[TrainingRun, Event | Exception]


def can_share(one: TrainingRun, other: TrainingRun) -> bool:
    """Whether two runs fit in one pass: one LoRA each, the same layers and rank, one way of computing, one size."""
    if not all(is_simple(run.config) for run in (one, other)):
        return False
    sizes = ({pair.original.shape for pair in run.pairs} for run in (one, other))
    return _traits(one.config) == _traits(other.config) and next(sizes) == next(sizes)


def _traits(config: TrainConfig) -> tuple[object, ...]:
    """The settings that must agree."""
    return config.rank, config.layers, config.blocks, config.precision, config.gradient_checkpointing


def train_runs(runs: Sequence[TrainingRun]) -> Generator[RunSaid, None, None]:
    """Do runs that `can_share` and have one host. Yields what each of them says; an exception is the end of that run.

    Raises what is nobody's own fault: that the model is not there, or that memory is full.
    """
    first = runs[0]
    try:
        with first.exclusive():
            going = [run for run in runs if not run.is_stopped]
            yield from _each(going, lambda run: run.prepare())
            yield from _steps(going)
            yield from _each(going, lambda run: run.finish())
    finally:
        for run in runs:
            run.close()


def _each(going: list[TrainingRun], part: Callable[[TrainingRun], Events]) -> Generator[RunSaid, None, None]:
    """One part of the work of each run, one after the other; who fails or is stopped goes no further."""
    for run in list(going):
        yield from _guarded(run, part(run), going)


def _guarded(run: TrainingRun, events: Events, going: list[TrainingRun]) -> Generator[RunSaid, None, None]:
    try:
        if run in going:
            run.check_model()
            for event in events:
                yield run, event
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        going.remove(run)
        yield run, error
    if run.is_stopped and run in going:
        going.remove(run)


def _steps(going: list[TrainingRun]) -> Generator[RunSaid, None, None]:
    """The training steps of all runs, until each has no more, has failed or is stopped."""
    states = {run.state: run for run in going}
    active = list(states)
    for seconds, reports in timed(train(going[0].host, active) if going else ()):
        for state, report in reports.items():
            run = states[state]
            if isinstance(report, TrainingError):
                going.remove(run)
                yield run, report
            else:
                yield from _guarded(run, run.after_step(report, seconds), going)
        active[:] = [state for state in active if states[state] in going]


class LocalRunner:
    """Does jobs on the host's own model: `together` at once where they can share a pass; 0 = as memory allows."""

    def __init__(self, together: int = 0) -> None:
        self._together = together

    def run(self, take: Take) -> Iterator[Said]:
        """See `lib_addift.jobs.queue.Runner`."""
        while job := take(lambda _job: True):
            try:
                run = job.run
                count = self._together or room_for(run)
            except Exception as error:  # the request cannot be met any more: its file name is taken, say
                yield job, error
                continue
            jobs = [job]
            while len(jobs) < count and (other := take(lambda each: _can_share(job, each))):
                jobs.append(other)
            yield from _do(jobs)

    def close(self) -> None:
        """There is nothing to let go of."""


def _can_share(one: Job, other: Job) -> bool:
    if _traits(one.request.config) != _traits(other.request.config):  # so no run of it is made, with all its pictures
        return False
    try:
        fits = can_share(one.run, other.run)
    except AddiftError:  # its own turn will say what is wrong with it
        return False
    if not fits:
        other.drop_run()
    return fits


def _do(jobs: Sequence[Job]) -> Iterator[Said]:
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
        is_memory = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
        if not is_memory or len(left) == 1:
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
        return max(1, min(_MOST_AT_ONCE, _CPU_LATENT_PIXELS // pixels))
    whole_unet = run.config.blocks != ("OUT",)
    one = MicroBatching(samples, recomputes=False).needs(height * width // 64, whole_unet=whole_unet, element_size=2)
    return max(1, min(_MOST_AT_ONCE, free // one))
