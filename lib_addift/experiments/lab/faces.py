"""The world of the small drawn faces, and the laboratory's tasks in it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.experiments.lab.world import Picture, Subject

# The ribbon is what the checkpoint has never seen: the textured style's dots along the bottom edge of a flat picture.
# Of most other objects (glasses, hats, badges) the bundled VAE reconstructs two thirds at most, blurred.
RIBBON = "ribbon"
_RIBBON_TOP = 48  # px
_RIBBON_MARGIN = 22  # px beside the head's centre: there is only background
_RIBBON_THRESHOLD = 0.08  # half of the level of painted pictures after the VAE, mean of 64 faces
# Where an attribute is read from one number: its name in `world.measure`, and the value that is shown by more of it.
_LEVELS = {
    "eyes": ("eye_white", "open"),
    "mouth": ("mouth_dark", "open"),
    "position": ("centre", "right"),
    "style": ("dots", "textured"),
}


class Faces:
    """Implements `World` on `lib_addift.demo.world`."""

    name = "faces"
    checkpoint: Path = CHECKPOINT
    size = world.SIZE
    attributes: Mapping[str, tuple[str, ...]] = world.ATTRIBUTES

    def random_subject(self, rng: random.Random) -> Subject:
        face = world.random_face(rng)
        return Subject(face.attributes(), face.variation)

    def paint(self, subject: Subject) -> Image.Image:
        if subject.values.get(RIBBON) != "there":
            return world.draw(_face(subject))
        pixels = np.array(world.draw(_face(subject.having({"style": "flat"}))))
        dotted = np.asarray(world.draw(_face(subject.having({"style": "textured"}))))
        pixels[_RIBBON_TOP:] = dotted[_RIBBON_TOP:]
        return Image.fromarray(pixels)

    def caption(self, values: Mapping[str, str]) -> str:
        named = {name: value for name, value in values.items() if name in world.ATTRIBUTES}
        return world.caption(_face(Subject(named)), frozenset(world.ATTRIBUTES) - frozenset(named))

    def detect(self, picture: Picture) -> dict[str, str]:
        there = ribbon_level(picture) > _RIBBON_THRESHOLD
        return {**world.detect(picture), RIBBON: "there" if there else "none"}

    def level(self, picture: Picture, attribute: str, value: str) -> float:
        if attribute == RIBBON:
            return ribbon_level(picture)
        reading = world.measure(picture)
        if attribute in _LEVELS:
            name, high = _LEVELS[attribute]
            return float(reading[name]) if value == high else -float(reading[name])
        return -float(np.abs(reading[attribute] - _painted_colour(attribute, value)).sum())


def ribbon_level(picture: Picture) -> float:
    """How much darker the ribbon's dots are than what is between them, as a share of the background's brightness."""
    pixels, reading = np.asarray(picture, dtype=np.float64), world.measure(picture)
    dots, beside = _dots(), _beside_the_head(reading["centre"])
    brightness = pixels.mean(axis=2) / max(float(reading["background"].mean()), 1.0)
    return float(brightness[beside & ~dots].mean() - brightness[beside & dots].mean())


def _face(subject: Subject) -> world.Face:
    known: dict[str, Any] = {name: value for name, value in subject.values.items() if name in world.ATTRIBUTES}
    return world.Face(**known, variation=subject.variation)


@cache
def _painted_colour(attribute: str, value: str) -> np.ndarray:
    return np.asarray(world.measure(world.draw(_face(Subject({attribute: value}))))[attribute])


@cache
def _dots() -> np.ndarray:
    """(64, 64), true inside the texture's dots: where a textured picture is clearly darker than a flat one."""
    flat, dotted = (np.asarray(world.draw(world.Face(style=style)), dtype=np.float64) for style in ("flat", "textured"))
    return np.asarray(dotted.sum(axis=2) < 0.85 * flat.sum(axis=2))


def _beside_the_head(centre: float) -> np.ndarray:
    """(64, 64), true in the ribbon's rows, left and right of the head."""
    columns = np.abs(np.arange(world.SIZE) - centre) > _RIBBON_MARGIN
    rows = np.arange(world.SIZE) >= _RIBBON_TOP
    return np.asarray(rows[:, None] & columns[None, :])


FACES = Faces()
_MANY = 12  # seeds of the three tasks that are judged most closely
_EYES, _MOUTH = {"eyes": ("open", "closed")}, {"mouth": ("smiling", "open")}

TASKS = {
    task.name: task
    for task in (
        LabTask(FACES, "eyes", _EYES, seeds=_MANY),
        LabTask(FACES, "mouth", _MOUTH, "detail", seeds=_MANY),
        LabTask(FACES, "hair", {"hair": ("black", "blond")}, seeds=_MANY),
        LabTask(FACES, "eyes-opened", {"eyes": ("closed", "open")}),
        LabTask(FACES, "mouth-closed", {"mouth": ("open", "smiling")}, "detail"),
        LabTask(FACES, "hair-red", {"hair": ("black", "red")}),
        LabTask(FACES, "hair-black", {"hair": ("blond", "black")}),
        LabTask(FACES, "skin", {"skin": ("light", "dark")}),
        LabTask(FACES, "skin-light", {"skin": ("dark", "light")}),
        LabTask(FACES, "background", {"background": ("blue", "green")}),
        LabTask(FACES, "position", {"position": ("left", "right")}),
        LabTask(FACES, "style", {"style": ("flat", "textured")}, "style"),
        LabTask(FACES, "style-flat", {"style": ("textured", "flat")}, "style"),
        LabTask(FACES, "eyes-and-mouth", {**_EYES, **_MOUTH}),
        LabTask(FACES, "ribbon", {RIBBON: ("none", "there")}, "detail", fixed={"style": "flat"}),
    )
}
