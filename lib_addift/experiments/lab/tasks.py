"""The tasks of the laboratory: the pair, the area that it may change, and how the result is detected.

Six kinds of difference: a local attribute, a detail, a colour, geometry, a style, and an object that the checkpoint
has never seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from lib_addift.demo import world
from lib_addift.experiments.lab import synthetic_object
from lib_addift.experiments.lab.metrics import dilated

_MARGIN = 3  # px by which an area is larger than the painted difference: for a shift of 1 px and for the VAE's blur
_VISIBLE = 8  # grey levels
_EVALUATION_SEED = 71_000  # the demo's faces, on which the presets were fitted, have another
Picture = np.ndarray  # (64, 64, 3), RGB, 0 .. 255


@dataclass(frozen=True)
class LabTask:
    """One difference to learn.

    `level` rises with how much of the value a picture shows. `mark` returns the pixels of what is learnt, given a face
    painted without the value and the same face painted with it.
    """

    name: str  # of the world's attribute, or of the object
    kind: str
    preset: str
    face: world.Face  # the original of the pair
    value: str
    level: Callable[[Picture], float]
    mark: Callable[[Picture, Picture], np.ndarray]
    add: Callable[[world.Face], Image.Image] | None = None  # paints an object that the world does not know
    threshold: float = 0.0  # the level above which such an object counts as shown
    fixed: Mapping[str, str] = field(default_factory=dict)  # attributes of the faces that are measured

    @property
    def is_known(self) -> bool:
        """Whether it is one of the world's attributes, which the checkpoint can draw and prompts can name."""
        return self.add is None

    @property
    def others(self) -> tuple[str, ...]:
        """The attributes that it must leave as they are."""
        return tuple(name for name in world.ATTRIBUTES if name != self.name)

    def paint(self, face: world.Face, *, shown: bool) -> Image.Image:
        """Paint a face with the value or without it; a face that has the value itself gets the training original's."""
        if self.add is None:
            return world.draw(self._known(face, shown))
        return self.add(face) if shown else world.draw(face)

    def _known(self, face: world.Face, shown: bool) -> world.Face:
        own = getattr(face, self.name)
        without = own if own != self.value else getattr(self.face, self.name)
        return _with(face, self.name, self.value if shown else without)

    def pairs(self, seed: int, count: int = 1) -> list[tuple[Image.Image, Image.Image]]:
        """Training pairs (original, target); the seed sets their shift of up to 1 px and their shades.

        The first shows the task's face, the others random ones.
        """
        rng = random.Random(_EVALUATION_SEED - seed)
        without = {self.name: getattr(self.face, self.name)} if self.is_known else self.fixed
        faces = [replace(self.face, variation=seed)]
        faces += [world.random_face(rng, **without) for _ in range(count - 1)]
        return [(self.paint(face, shown=False), self.paint(face, shown=True)) for face in faces]

    def is_hit(self, picture: Picture) -> bool:
        """Whether a picture shows the value."""
        if self.is_known:
            return bool(world.detect(picture)[self.name] == self.value)
        return self.level(picture) > self.threshold

    def new_faces(self, seed: int, count: int) -> list[world.Face]:
        """Faces to measure on, none of them like the first pair's."""
        rng = random.Random(_EVALUATION_SEED + seed)
        trained = [self.face.attributes(), self.face.attributes() | {self.name: self.value}]
        faces: list[world.Face] = []
        while len(faces) < count:
            face = world.random_face(rng, **self.fixed)
            if face.attributes() not in trained:
                faces.append(face)
        return faces

    def prompt(self, face: world.Face) -> str:
        """The caption of a face, without what is learnt."""
        return world.caption(face, frozenset({self.name}))

    def prompt_in_words(self, face: world.Face, *, shown: bool) -> str:
        """The caption that names the value or its absence; for attributes of the world only."""
        return world.caption(self._known(face, shown))

    def area(self, face: world.Face) -> np.ndarray:
        """(64, 64), true where the value may change a picture of this face."""
        shown = _pixels(self.paint(face, shown=True))
        rest = [value for value in world.ATTRIBUTES.get(self.name, ()) if value != self.value]
        without = [world.draw(_with(face, self.name, value)) for value in rest] or [self.paint(face, shown=False)]
        changes = [np.abs(shown - _pixels(picture)).max(axis=2) > _VISIBLE for picture in without]
        return dilated(np.logical_or.reduce(changes), _MARGIN)

    def mark_of(self, face: world.Face) -> np.ndarray:
        """(64, 64), true on what is learnt, as it stands in a painted picture of this face."""
        flat = replace(face, style="flat", variation=0)
        return self.mark(_pixels(self.paint(flat, shown=False)), _pixels(self.paint(flat, shown=True)))


def _with(face: world.Face, name: str, value: str) -> world.Face:
    changes: dict[str, Any] = {name: value}
    return replace(face, **changes)


def _pixels(picture: Image.Image) -> Picture:
    return np.asarray(picture, dtype=np.float64)


def _like(ink: tuple[int, int, int], tolerance: int) -> Callable[[Picture, Picture], np.ndarray]:
    """A mark: the pixels at or beside a change that have the colour `ink`, up to a sum of differences."""

    def mark(original: Picture, target: Picture) -> np.ndarray:
        changed = dilated(np.abs(target - original).max(axis=2) > _VISIBLE, 1)
        return np.asarray(changed & (np.abs(target - ink).sum(axis=2) < tolerance))

    return mark


def _changed(original: Picture, target: Picture) -> np.ndarray:
    """A mark: the pixels that change by more than half of the largest change."""
    change = np.abs(target - original).sum(axis=2)
    return np.asarray(change > change.max() / 2)


def _on_the_background(original: Picture, target: Picture) -> np.ndarray:
    """A mark: what changes where there was nothing but background, so that no other edge is near."""
    plain = ~dilated(_head(original, original), 4)
    return _changed(original * plain[..., None], target * plain[..., None])


def _head(_original: Picture, target: Picture) -> np.ndarray:
    """A mark: all that is not background."""
    return np.asarray(np.abs(target - target[1, 1]).sum(axis=2) > 90)


def _level(name: str, sign: float = 1.0) -> Callable[[Picture], float]:
    return lambda picture: sign * float(world.measure(picture)[name])


def _hair_level(picture: Picture) -> float:
    """How near the hair is to blond, the sum of differences of colour."""
    return -float(np.abs(world.measure(picture)["hair"] - _blond()).sum())


@cache
def _blond() -> np.ndarray:
    return np.asarray(world.measure(world.draw(world.Face(hair="blond")))["hair"])


# A pair should show its difference clearly (docs/method.md): white eyes in a dark face, a dark mouth in a light one.
_DARK = world.Face(hair="blond", skin="dark", background="green", position="right")
_LIGHT = world.Face(hair="red", skin="light", background="grey", position="right")
_BLACK_HAIRED = world.Face(hair="black", skin="light", background="blue", position="left")

TASKS = {
    task.name: task
    for task in (
        LabTask("eyes", "local", "action", _DARK, "closed", _level("eye_white", -1.0), _like((40, 20, 20), 105)),
        LabTask("mouth", "detail", "detail", _LIGHT, "open", _level("mouth_dark"), _like((120, 10, 30), 65)),
        LabTask("hair", "colour", "action", _BLACK_HAIRED, "blond", _hair_level, _changed),
        LabTask("position", "geometry", "action", _BLACK_HAIRED, "right", _level("centre"), _head),
        LabTask("style", "style", "style", _DARK, "textured", _level("dots"), _on_the_background),
        LabTask(
            "ribbon", "object", "detail", _LIGHT, "there", synthetic_object.ribbon_level, _on_the_background,
            synthetic_object.paint_ribbon, synthetic_object.RIBBON_THRESHOLD, {"style": "flat"},
        ),
    )
}  # fmt: skip
