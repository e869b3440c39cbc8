"""Times the contenders alternately (A B A B) on one model and one pair of pictures."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

import torch

from lib_addift.data.pairs import PairSource
from lib_addift.diffusion.host import Host
from lib_addift.experiments.bench.contenders import CONTENDERS, OURS, Contender, Steps
from lib_addift.experiments.bench.memory import Peak
from lib_addift.experiments.bench.roofline import Work, count_work, synchronize
from lib_addift.training.events import Request
from lib_addift.training.joint import train_runs
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport

_STEPS_FOR_MEMORY = 10  # it does not grow with them (`scaling`)


@dataclass(frozen=True)
class Times:
    """Seconds from the start of a run, which begins with the pictures."""

    first_step: float
    last_step: float
    done: (
        float | None
    )  # of our training: the LoRA is evaluated, its preview drawn and the file saved; None: that was left out


@dataclass
class Measured:
    """A contender's timed runs, and the work of one of its steps."""

    contender: Contender
    work: Work
    runs: list[Times] = field(default_factory=list)
    peak_bytes: int = 0  # beside the model

    def median(self, key: str) -> float | None:
        """The median over the runs of a field of `Times`; None where a run lacks it."""
        values = [getattr(times, key) for times in self.runs]
        return None if None in values else statistics.median(values)


@dataclass(frozen=True)
class BenchPlan:
    """How long and how often the contenders run."""

    steps: int
    pixels: int
    rounds: int
    with_proof: bool  # whether our runs go on after the last step: evaluation, preview and file


def measure_speed(host: Host, pair: PairSource, plan: BenchPlan) -> Iterator[Measured]:
    """Time all contenders in each round; yields a contender's results after each of its runs."""
    # Counting the work first also warms up: kernels are chosen and caches filled.
    found = [Measured(each, _work_of_a_step(host, each, pair, plan.pixels)) for each in CONTENDERS]
    for _ in range(plan.rounds):
        for each in found:
            each.runs.append(_time(host, each.contender, pair, plan))
            yield each


def _time(host: Host, contender: Contender, pair: PairSource, plan: BenchPlan) -> Times:
    config = contender.config(steps=plan.steps, pixels=plan.pixels)
    return time_steps(contender.run(host, pair, config), plan.steps, host.device, with_proof=plan.with_proof)


def time_steps(run: Steps, steps: int, device: torch.device, *, with_proof: bool) -> Times:
    """Run all steps and, `with_proof`, what follows them; `steps` is the number of the last one."""
    first = last = 0.0
    done = None
    begun = time.perf_counter()

    def elapsed() -> float:
        synchronize(device)
        return time.perf_counter() - begun

    with closing(run) as taken:
        for step in taken:
            if step in (1, steps):  # no synchronisation in between: it would slow training down
                last = elapsed()
                first = first or last
            if step == steps and not with_proof:
                break
        else:
            done = elapsed()
    return Times(first, last, done)


def measure_memory(open_host: Callable[[], Host], found: Sequence[Measured], pair: PairSource, plan: BenchPlan) -> None:
    """Fill in each contender's peak, measured in a new process: this one's memory is fragmented by earlier runs."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        peaks = pool.submit(_peaks, open_host, pair, plan).result()
    for each, peak in zip(found, peaks, strict=True):
        each.peak_bytes = peak


def _peaks(open_host: Callable[[], Host], pair: PairSource, plan: BenchPlan) -> list[int]:
    """The peak memory of each contender in bytes."""
    host = open_host()
    found = []
    for each in CONTENDERS:
        _time(host, each, pair, replace(plan, steps=2))  # warm-up: what is allocated once is there now
        with Peak(host.device) as peak:
            _time(host, each, pair, replace(plan, steps=min(plan.steps, _STEPS_FOR_MEMORY)))
        found.append(peak.bytes)
    return found


def _work_of_a_step(host: Host, contender: Contender, pair: PairSource, pixels: int) -> Work:
    """The work of one step with its teacher predictions: the difference of runs of 4 and 2 steps, halved."""

    def steps(count: int) -> Work:
        def train() -> None:
            with closing(contender.run(host, pair, contender.config(steps=count, pixels=pixels))) as taken:
                for step in taken:
                    if step == count:
                        return

        return count_work(host.unet, train)

    return (steps(4) - steps(2)) / 2


@dataclass(frozen=True)
class JointTraining:
    """Times of `count` LoRAs trained jointly, and of one alone."""

    count: int
    alone: float  # s of training of one
    together: float  # s of training of all

    @property
    def gain(self) -> float:
        """How many times as many samples are learnt from in the same time."""
        return self.alone * self.count / self.together


def measure_joint_training(
    host: Host, pair: PairSource, counts: Sequence[int], *, steps: int, pixels: int
) -> list[JointTraining]:
    """Time the joint training of `counts` LoRAs and the training of one alone; without what follows the last step."""
    alone = _train_sets(host, pair, 1, steps=steps, pixels=pixels)
    return [JointTraining(n, alone, _train_sets(host, pair, n, steps=steps, pixels=pixels)) for n in counts]


def _train_sets(host: Host, pair: PairSource, count: int, *, steps: int, pixels: int) -> float:
    config = OURS.config(steps=steps, pixels=pixels)
    runs = [TrainingRun(host, Request((pair,), f"bench{number}", config, overwrite=True)) for number in range(count)]
    begun = time.perf_counter()
    ended = 0
    with closing(train_runs(runs)) as said:
        for _run, event in said:
            if isinstance(event, Exception):
                raise event
            if isinstance(event, StepReport) and event.step == steps:
                ended += 1
                if ended == count:
                    break
        synchronize(host.device)
        return time.perf_counter() - begun
