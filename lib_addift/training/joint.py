"""Joint training: several runs on one model in step; the samples of all of them go through the UNet in one pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import TrainingError, is_out_of_memory
from lib_addift.training.events import Event, Events
from lib_addift.training.loop import timed, train
from lib_addift.training.methods import is_simple
from lib_addift.training.run import TrainingRun

RunEvent = tuple[TrainingRun, Event | Exception]


def can_share(one: TrainingRun, other: TrainingRun) -> bool:
    """Whether two runs fit in one pass: one LoRA each, the same layers and rank, one way of computing, one size."""
    if not all(is_simple(run.config) for run in (one, other)):
        return False
    sizes = ({pair.original.shape for pair in run.pairs} for run in (one, other))
    return shared_settings(one.config) == shared_settings(other.config) and next(sizes) == next(sizes)


def shared_settings(config: TrainConfig) -> tuple[object, ...]:
    """The settings that must agree."""
    return config.algorithm, config.rank, config.layers, config.blocks, config.precision, config.gradient_checkpointing


def train_runs(runs: Sequence[TrainingRun]) -> Generator[RunEvent, None, None]:
    """Do runs that `can_share` and have one host. Yields the events of each; an exception is the end of that run.

    Raises what is nobody's own fault: that the model is not there, or that memory is full. One run alone is done in its
    own way.
    """
    if len(runs) == 1:
        yield from _guarded(runs[0], runs[0].events(), list(runs))
        return
    first, resume_every = runs[0], min(run.resume_every for run in runs)
    for run in runs:  # at the same steps, from which all of them can go on together
        run.resume_every = resume_every
    try:
        with first.exclusive():
            going = [run for run in runs if not run.is_stopped]
            yield from _each(going, lambda run: run.prepare())
            yield from _steps(going)
            yield from _each(going, lambda run: run.finish())
    finally:
        for run in runs:
            run.close()


def _each(going: list[TrainingRun], part: Callable[[TrainingRun], Events]) -> Generator[RunEvent, None, None]:
    """One part of the work of each run, one after the other; a run that fails or is stopped goes no further."""
    for run in list(going):
        yield from _guarded(run, part(run), going)


def _guarded(run: TrainingRun, events: Events, going: list[TrainingRun]) -> Generator[RunEvent, None, None]:
    """The events of one run; its own error ends it and not the others."""
    try:
        if run in going:
            run.check_model()
            for event in events:
                yield run, event
    except Exception as error:
        if is_out_of_memory(error):
            raise
        going.remove(run)
        yield run, error
    if run.is_stopped and run in going:
        going.remove(run)


def _steps(going: list[TrainingRun]) -> Generator[RunEvent, None, None]:
    """The training steps of all runs, until each has no more, has failed or is stopped."""
    runs = {run.state: run for run in going}
    active = list(runs)
    for seconds, reports in timed(train(going[0].host, active) if going else ()):
        for state, report in reports.items():
            run = runs[state]
            if isinstance(report, TrainingError):
                going.remove(run)
                yield run, report
            else:
                yield from _guarded(run, run.after_step(report, seconds), going)
        active[:] = [state for state in active if runs[state] in going]
