"""How time and memory of ours grow with the number of steps and of pairs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from lib_addift.bench.contenders import OURS
from lib_addift.bench.floor import synchronize
from lib_addift.bench.memory import Peak
from lib_addift.demo import world
from lib_addift.hosts.base import Host
from lib_addift.learner import StepReport
from lib_addift.messages import Request
from lib_addift.pairs import PairSource
from lib_addift.pipeline import TrainingRun

FEW, STEPS, PAIRS = 30, (30, 300, 3000), (1, 10, 100)  # steps where the pairs vary


@dataclass(frozen=True)
class Scaled:
    """A run without proof."""

    steps: int
    pairs: int
    prepare: float  # s: pictures are read and encoded
    train: float  # s
    peak_bytes: int  # beside the model


def measure_scaling(host: Host, *, pixels: int, sizes: Sequence[tuple[int, int]]) -> Iterator[Scaled]:
    """One run for each size, (steps, pairs)."""
    for steps, pairs in sizes:
        config = OURS.config(steps=steps, pixels=pixels)
        pictures = tuple(_pairs(pairs, pixels))
        prepared = ended = 0.0
        with Peak(host.device) as peak:
            begun = time.perf_counter()
            run = TrainingRun(host, Request(pictures, "bench", config, overwrite=True))
            with closing(run.events()) as events:
                for event in events:
                    if not isinstance(event, StepReport):
                        continue
                    if event.step == 1:
                        synchronize(host.device)
                        prepared = time.perf_counter()
                    if event.step == steps:
                        synchronize(host.device)
                        ended = time.perf_counter()
                        break
        step = (ended - prepared) / (steps - 1)
        yield Scaled(steps, pairs, prepared - begun - step, step * steps, peak.bytes)


def all_sizes() -> list[tuple[int, int]]:
    """(steps, pairs), each once."""
    return list(dict.fromkeys([*((steps, 1) for steps in STEPS), *((FEW, pairs) for pairs in PAIRS)]))


def _pairs(count: int, pixels: int) -> Iterator[PairSource]:
    """So many faces, each with open and with closed eyes."""
    rng = random.Random(1)
    for number in range(count):
        face = world.random_face(rng, eyes="open")
        original, target = (world.draw(each).resize((pixels, pixels)) for each in (face, replace(face, eyes="closed")))
        yield PairSource(original, target, name=f"face {number + 1}")
