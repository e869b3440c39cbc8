"""A synthetic object, which the checkpoint has never seen: a ribbon of dots painted over a face, and its detector.

The bundled VAE reconstructs little beyond the world: of glasses, hats, patches, strips and badges in many colours at
most two thirds, blurred, and most of them change other attributes too. Dots it stores cell by cell and decodes with
hard edges; the ribbon puts them where the world never has them alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from lib_addift.demo import world

_RIBBON_TOP = 48  # px
_RIBBON_MARGIN = 22  # px beside the head's centre: there is only background
RIBBON_THRESHOLD = 0.08  # half of the level of painted pictures after the VAE, mean of 64 faces


def paint_ribbon(face: world.Face) -> Image.Image:
    """A flat face with the textured style's dots along the bottom edge only."""
    dotted = np.asarray(world.draw(_with_style(face, "textured")))
    pixels = np.array(world.draw(_with_style(face, "flat")))
    pixels[_RIBBON_TOP:] = dotted[_RIBBON_TOP:]
    return Image.fromarray(pixels)


def ribbon_level(picture: np.ndarray) -> float:
    """How much darker the ribbon's dots are than what is between them, as a share of the background's brightness."""
    pixels, reading = np.asarray(picture, dtype=np.float64), world.measure(picture)
    dots, beside = _dots(), _beside_the_head(reading["centre"])
    brightness = pixels.mean(axis=2) / max(float(reading["background"].mean()), 1.0)
    return float(brightness[beside & ~dots].mean() - brightness[beside & dots].mean())


def _with_style(face: world.Face, style: str) -> world.Face:
    values: dict[str, Any] = {**vars(face), "style": style}
    return world.Face(**values)


def _dots() -> np.ndarray:
    """(64, 64), true inside the texture's dots: where a textured picture is clearly darker than a flat one."""
    flat, dotted = (np.asarray(world.draw(world.Face(style=style)), dtype=np.float64) for style in ("flat", "textured"))
    return np.asarray(dotted.sum(axis=2) < 0.85 * flat.sum(axis=2))


def _beside_the_head(centre: float) -> np.ndarray:
    """(64, 64), true in the ribbon's rows, left and right of the head."""
    columns = np.abs(np.arange(world.SIZE) - centre) > _RIBBON_MARGIN
    rows = np.arange(world.SIZE) >= _RIBBON_TOP
    return np.asarray(rows[:, None] & columns[None, :])
