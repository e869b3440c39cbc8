"""The world of the small drawn faces, and the laboratory's tasks in it."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
from PIL import Image

from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINTS
from lib_addift.experiments.lab.drawn_world import DrawnWorld
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.experiments.lab.world import Picture, Subject

# The ribbon is what the checkpoint has never seen: the textured style's dots along the bottom edge of a flat picture.
# Of most other objects (glasses, hats, badges) the bundled VAE reconstructs two thirds at most, blurred.
RIBBON = "ribbon"
_RIBBON_TOP = 48  # px
_RIBBON_MARGIN = 22  # px beside the head's centre: there is only background
_RIBBON_THRESHOLD = 0.08  # half of the level of painted pictures after the VAE, mean of 64 faces
_LEVELS = {
    "eyes": ("eye_white", "open"),
    "mouth": ("mouth_dark", "open"),
    "position": ("centre", "right"),
    "style": ("dots", "textured"),
}


class Faces(DrawnWorld):
    """The demo's world, with a ribbon that can be painted and read."""

    def paint(self, subject: Subject) -> Image.Image:
        if subject.values.get(RIBBON) != "there":
            return super().paint(subject)
        pixels = np.array(super().paint(subject.having({"style": "flat"})))
        dotted = np.asarray(super().paint(subject.having({"style": "textured"})))
        pixels[_RIBBON_TOP:] = dotted[_RIBBON_TOP:]
        return Image.fromarray(pixels)

    def detect(self, picture: Picture) -> dict[str, str]:
        there = ribbon_level(picture) > _RIBBON_THRESHOLD
        return {**super().detect(picture), RIBBON: "there" if there else "none"}

    def level(self, picture: Picture, attribute: str, value: str) -> float:
        return ribbon_level(picture) if attribute == RIBBON else super().level(picture, attribute, value)


def ribbon_level(picture: Picture) -> float:
    """How much darker the ribbon's dots are than what is between them, as a share of the background's brightness."""
    pixels, reading = np.asarray(picture, dtype=np.float64), world.measure(picture)
    dots, beside = _dots(), _beside_the_head(reading["centre"])
    brightness = pixels.mean(axis=2) / max(float(reading["background"].mean()), 1.0)
    return float(brightness[beside & ~dots].mean() - brightness[beside & dots].mean())


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


FACES = Faces("faces", CHECKPOINTS["sd15"], world, world.Face, world.random_face, _LEVELS)
FACES_XL = dataclasses.replace(FACES, name="faces-xl", checkpoint=CHECKPOINTS["sdxl"])  # the same on SDXL
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
XL_TASKS = {name: dataclasses.replace(task, world=FACES_XL) for name, task in TASKS.items()}
