"""A world that a module draws, captions and reads, as `lib_addift.demo.world` does."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from lib_addift.experiments.lab.world import Picture, Subject


class WorldModule(Protocol):
    """The module; its own subjects are dataclasses with a field for each attribute and `variation`."""

    SIZE: int
    ATTRIBUTES: dict[str, tuple[str, ...]]

    def __hash__(self) -> int: ...

    def draw(self, subject: Any, /) -> Image.Image: ...

    def caption(self, subject: Any, omit: frozenset[str], /) -> str: ...

    def detect(self, picture: Picture, /) -> dict[str, str]: ...

    def measure(self, picture: Picture, /) -> dict[str, Any]: ...


@dataclass(frozen=True)
class DrawnWorld:
    """Implements `World` on such a module."""

    name: str
    checkpoint: Path
    module: WorldModule
    subject: Callable[..., Any]  # the module's class of subjects
    at_random: Callable[[random.Random], Any]  # draws one of them
    # Attributes that are read from one number: its name in `measure`, and the value that is shown by more of it. The
    # others are read from a colour that has the attribute's name there.
    levels: Mapping[str, tuple[str, str]]

    @property
    def size(self) -> int:
        return self.module.SIZE

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        return self.module.ATTRIBUTES

    def random_subject(self, rng: random.Random) -> Subject:
        drawn = self.at_random(rng)
        return Subject({name: getattr(drawn, name) for name in self.attributes}, drawn.variation)

    def paint(self, subject: Subject) -> Image.Image:
        return self.module.draw(self._own(subject))

    def caption(self, values: Mapping[str, str]) -> str:
        omitted = frozenset(self.attributes) - frozenset(values)
        return self.module.caption(self._own(Subject(values)), omitted)

    def detect(self, picture: Picture) -> dict[str, str]:
        return self.module.detect(picture)

    def level(self, picture: Picture, attribute: str, value: str) -> float:
        reading = self.module.measure(picture)
        if attribute in self.levels:
            name, high = self.levels[attribute]
            return float(reading[name]) if value == high else -float(reading[name])
        return -float(np.abs(reading[attribute] - self._painted_colour(attribute, value)).sum())

    def _own(self, subject: Subject) -> Any:
        """The module's subject; what the module does not know is left out."""
        known = {name: value for name, value in subject.values.items() if name in self.attributes}
        return self.subject(**known, variation=subject.variation)

    def _painted_colour(self, attribute: str, value: str) -> np.ndarray:
        return _painted_colour(self.module, self.subject, attribute, value)


@cache
def _painted_colour(module: WorldModule, subject: Callable[..., Any], attribute: str, value: str) -> np.ndarray:
    """The colour that is measured in a painted picture with this value, (3,)."""
    return np.asarray(module.measure(np.asarray(module.draw(subject(**{attribute: value}))))[attribute])
