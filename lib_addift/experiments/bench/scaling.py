"""How time and memory of our training grow with the number of steps and of pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lib_addift.data.pairs import PairSource
from lib_addift.demo import world
from lib_addift.diffusion.host import Host
from lib_addift.experiments.bench.contenders import OURS, ours
from lib_addift.experiments.bench.memory import Peak
from lib_addift.experiments.bench.run import time_steps

FEW, STEPS, PAIRS = 30, (30, 300, 3000), (1, 10, 100)  # steps where the pairs vary


@dataclass(frozen=True)
class Scaled:
    """One run, timed without what follows its last step."""

    steps: int
    pairs: int
    prepare: float  # s: pictures are read and encoded
    train: float  # s
    peak_bytes: int  # beside the model


def measure_scaling(host: Host, *, pixels: int, sizes: Sequence[tuple[int, int]]) -> Iterator[Scaled]:
    """One run for each size, (steps, pairs)."""
    for steps, pairs in sizes:
        config = OURS.config(steps=steps, pixels=pixels)
        pictures = list(_pairs(pairs, pixels))
        with Peak(host.device) as peak:
            times = time_steps(ours(host, pictures, config), steps, host.device, with_proof=False)
        step = (times.last_step - times.first_step) / (steps - 1)
        yield Scaled(steps, pairs, times.first_step - step, step * steps, peak.bytes)


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
