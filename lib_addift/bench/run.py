"""Times the contenders in turns, A B A B, on one model and one pair of pictures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from lib_addift.bench.contenders import CONTENDERS, OURS, Contender
from lib_addift.bench.floor import Work, count_work, synchronize
from lib_addift.bench.memory import Peak
from lib_addift.hosts.base import Host
from lib_addift.learner import StepReport
from lib_addift.messages import Request
from lib_addift.pairs import PairSource
from lib_addift.pipeline import TrainingRun
from lib_addift.together import train_runs


@dataclass(frozen=True)
class Times:
    """Seconds since the pictures were given, and bytes beside the model."""

    first_step: float
    last_step: float
    done: float  # for ours the LoRA is proved, drawn and saved
    peak_bytes: int


@dataclass
class Measured:
    """A contender's runs, and what a step of it asks of the device."""

    contender: Contender
    work: Work
    runs: list[Times] = field(default_factory=list)

    def median(self, read: Callable[[Times], float]) -> float:
        return statistics.median(map(read, self.runs))


def measure(host: Host, pair: PairSource, *, steps: int, pixels: int, rounds: int) -> Iterator[Measured]:
    """Yields each contender's runs anew after every one of them; the last three have all."""
    found = [Measured(each, _work_of_a_step(host, each, pair, pixels)) for each in CONTENDERS]
    for contender in CONTENDERS:  # what is done only once, such as choosing kernels, is nobody's
        _time(host, contender, pair, steps=2, pixels=pixels)
    for _ in range(rounds):
        for each in found:
            each.runs.append(_time(host, each.contender, pair, steps=steps, pixels=pixels))
            yield each


def _time(host: Host, contender: Contender, pair: PairSource, *, steps: int, pixels: int) -> Times:
    config = contender.config(steps=steps, pixels=pixels)
    with Peak(host.device) as peak:
        begun = time.perf_counter()
        first = last = 0.0
        for step in contender.run(host, pair, config):
            if step in (1, steps):  # in between nobody waits for the device
                synchronize(host.device)
                last = time.perf_counter() - begun
                first = first or last
        synchronize(host.device)
        done = time.perf_counter() - begun
    return Times(first, last, done, peak.bytes)


def _work_of_a_step(host: Host, contender: Contender, pair: PairSource, pixels: int) -> Work:
    """References included; counted on two short runs, of which one is longer."""

    def steps(count: int) -> Work:
        def train() -> None:
            with closing(contender.run(host, pair, contender.config(steps=count, pixels=pixels))) as taken:  # type: ignore[type-var]
                for step in taken:
                    if step == count:
                        return

        return count_work(host.unet, train)

    return (steps(4) - steps(2)) / 2


@dataclass(frozen=True)
class Together:
    """So many LoRAs at once, and one alone."""

    count: int
    alone: float  # s of training of one
    together: float  # s of training of all

    @property
    def gain(self) -> float:
        """How many times as many samples are learnt from in the same time."""
        return self.alone * self.count / self.together


def measure_together(host: Host, pair: PairSource, counts: Sequence[int], *, steps: int, pixels: int) -> list[Together]:
    """The training of several LoRAs in one pass, beside that of one; without proofs."""
    alone = _train_sets(host, pair, 1, steps=steps, pixels=pixels)
    return [Together(n, alone, _train_sets(host, pair, n, steps=steps, pixels=pixels)) for n in counts]


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
