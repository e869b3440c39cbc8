"""What a training asks of a world: random subjects, their pictures and their captions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from lib_addift.demo import world
from lib_addift.experiments.worlds import avatars

OMIT_RATE = 0.2  # share of attributes left out of a caption
EMPTY_RATE = 0.1  # share of empty captions, for classifier-free guidance


@dataclass(frozen=True)
class World:
    """A module with ATTRIBUTES, SIZE, `draw`, `caption`, `phrase` and `detect`, and its random subjects."""

    module: ModuleType
    random_subject: Callable[[random.Random], Any]

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        result: dict[str, tuple[str, ...]] = self.module.ATTRIBUTES
        return result

    @property
    def latent_size(self) -> int:
        """Width and height of a picture's latents: SD's VAE makes one of 8 x 8 px."""
        return int(self.module.SIZE) // 8

    def subjects(self, count: int, seed: int) -> list[Any]:
        rng = random.Random(seed)
        return [self.random_subject(rng) for _ in range(count)]

    def pictures(self, subjects: list[Any]) -> torch.Tensor:
        """Painted pictures, (count, 3, SIZE, SIZE) uint8."""
        pixels = np.stack([np.asarray(self.module.draw(subject)) for subject in subjects])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def random_caption(self, subject: Any, rng: random.Random) -> str:
        """A caption as the training shows it: some attributes are left out, and sometimes all."""
        if rng.random() < EMPTY_RATE:
            return ""
        omitted = frozenset(name for name in self.attributes if rng.random() < OMIT_RATE)
        result: str = self.module.caption(subject, omitted)
        return result

    def said(self, subject: Any, caption: str, attribute: str) -> int:
        """The number of the attribute's value in ATTRIBUTES, or the count of values if the caption omits it."""
        values = self.attributes[attribute]
        value = getattr(subject, attribute)
        return values.index(value) if self.module.phrase(attribute, value) in caption else len(values)


WORLDS = {"faces": World(world, world.random_face), "avatars": World(avatars, avatars.random_avatar)}
