"""Which picture, direction, timestep and noise every step uses: decided before training, printable, reproducible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction


@dataclass(frozen=True)
class Turn:
    """One sample of one optimizer step."""

    pair: int  # of the list of all views: `views` of the first pair, then those of the second
    direction: Direction
    timestep: int
    noise_seed: int


Plan = tuple[tuple[Turn, ...], ...]  # for every optimizer step, its turns


def make_plan(config: TrainConfig, pairs: int = 1, views: int = 1, *, order: Sequence[int] = ()) -> Plan:
    """The turns of all `config.max_train_steps` steps, on `pairs` pairs or on those of `order`, again and again.

    A visit is one draw of view, timestep and noise. Visits take the pairs in turn and walk through the timestep bands
    in order, uniformly random inside a band and among the pair's views. A visit is used in both directions: in one step
    (`directions = both`), in two successive steps (`alternate`), or only forward.
    """
    generator = torch.Generator("cpu").manual_seed(config.seed)
    edges = _band_edges(config)
    first = Direction(config.first_direction)
    order = order or range(pairs)
    visits = 0

    def visit() -> tuple[int, int, int]:
        nonlocal visits
        band = (visits // len(order)) % config.timestep_bands  # every pair meets every band equally often
        low, high = edges[band], edges[band + 1]
        timestep = int(torch.randint(low, high, (), generator=generator))
        noise_seed = int(torch.randint(0, 2**62, (), generator=generator))
        view = int(torch.randint(0, views, (), generator=generator)) if views > 1 else 0
        pair = order[visits % len(order)]
        visits += 1
        return pair * views + view, timestep, noise_seed

    def turns(draws: list[tuple[int, int, int]], direction: Direction) -> tuple[Turn, ...]:
        return tuple(Turn(pair, direction, timestep, seed) for pair, timestep, seed in draws)

    steps: list[tuple[Turn, ...]] = []
    while len(steps) < config.max_train_steps:
        draws = [visit() for _ in range(config.batch_size)]
        if config.directions == "both":
            steps.append(turns(draws, first) + turns(draws, first.opposite))
        else:
            steps.append(turns(draws, first))
            if config.directions == "alternate":
                steps.append(turns(draws, first.opposite))
    return tuple(steps[: config.max_train_steps])


def _band_edges(config: TrainConfig) -> list[int]:
    """The timesteps at which bands begin, and the end: bands + 1 whole numbers."""
    width = config.max_timestep - config.min_timestep
    return [config.min_timestep + width * k // config.timestep_bands for k in range(config.timestep_bands + 1)]


def turn_noise(turn: Turn, shape: torch.Size) -> torch.Tensor:
    """The noise of a turn, float32 on the CPU; both directions of a visit get the same."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(turn.noise_seed))
