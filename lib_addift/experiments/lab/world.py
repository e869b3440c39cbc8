"""What the laboratory asks of a world of pictures: it paints them, writes their captions and reads them back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

Picture = np.ndarray  # (size, size, 3), RGB, 0 .. 255


@dataclass(frozen=True)
class Subject:
    """What one picture shows: a value for each attribute, and the seed of its small individual variation."""

    values: Mapping[str, str]
    variation: int = 0

    def having(self, values: Mapping[str, str]) -> Subject:
        """The same subject with other values of some attributes."""
        return replace(self, values={**self.values, **values})


class World(Protocol):
    """A synthetic world with a checkpoint of its own. All that depends on the world is behind this protocol."""

    @property
    def name(self) -> str: ...

    @property
    def checkpoint(self) -> Path: ...

    @property
    def size(self) -> int:
        """Width and height of a picture, px."""
        ...

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """Every attribute that the checkpoint knows and captions name, and its values."""
        ...

    def random_subject(self, rng: random.Random) -> Subject:
        """A subject with random values of all attributes and a random variation."""
        ...

    def paint(self, subject: Subject) -> Image.Image:
        """Paint a subject as an RGB picture."""
        ...

    def caption(self, values: Mapping[str, str]) -> str:
        """The prompt that names these attributes, in the order of the checkpoint's captions, and no others."""
        ...

    def detect(self, picture: Picture) -> dict[str, str]:
        """Read every attribute of a picture, and whatever else a task of this world may add."""
        ...

    def level(self, picture: Picture, attribute: str, value: str) -> float:
        """A number that rises with how much of the value a picture shows, in any unit."""
        ...
