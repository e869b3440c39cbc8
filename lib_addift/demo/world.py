"""A synthetic world of small drawn faces: a model of it trains on two CPU cores, and detectors measure its pictures.

`draw` paints a 64 x 64 picture of a face from independent attributes. `detect` reads the attributes of any picture by
plain arithmetic on pixels, without a trained part, so that scores can be explained. `caption` writes the prompt.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
_OVERSAMPLE = 4
_Y = 35  # vertical centre of every head
_COLOURS = {
    "background": {"blue": (90, 140, 230), "green": (90, 180, 90), "grey": (165, 165, 165)},
    "hair": {"black": (35, 30, 35), "blond": (245, 215, 75), "red": (200, 70, 25)},
    "skin": {"light": (245, 200, 160), "dark": (140, 90, 60)},
}
_CENTRES = {"left": 24, "right": 40}
_DOT_DEPTH = 0.35  # how much darker the dots of the textured style are
_DOT_THRESHOLD = 0.12
_EYE_THRESHOLD = 0.45
_MOUTH_THRESHOLD = 0.6

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "eyes": ("open", "closed"),
    "mouth": ("smiling", "open"),
    "hair": tuple(_COLOURS["hair"]),
    "skin": tuple(_COLOURS["skin"]),
    "background": tuple(_COLOURS["background"]),
    "position": tuple(_CENTRES),
    "style": ("flat", "textured"),
}
_PHRASES = {
    "style": "{} drawing",
    "position": "face on the {}",
    "eyes": "{} eyes",
    "mouth": "{} mouth",
    "hair": "{} hair",
    "skin": "{} skin",
    "background": "{} background",
}


@dataclass(frozen=True)
class Face:
    """One picture's attributes (see ATTRIBUTES for the values) and its small individual variation."""

    eyes: str = "open"
    mouth: str = "smiling"
    hair: str = "black"
    skin: str = "light"
    background: str = "blue"
    position: str = "left"
    style: str = "flat"
    variation: int = 0  # seed of a shift of up to 1 px and a few grey levels of colour

    def attributes(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ATTRIBUTES}


def random_face(rng: random.Random, **fixed: Any) -> Face:
    """A face with every attribute uniformly random, except the given ones."""
    values = {name: rng.choice(options) for name, options in ATTRIBUTES.items()}
    return Face(**{**values, "variation": rng.randrange(1, 2**31), **fixed})


def caption(face: Face, omit: frozenset[str] = frozenset()) -> str:
    """The prompt for a face, without the attributes in `omit`."""
    return ", ".join(phrase(name, getattr(face, name)) for name in _PHRASES if name not in omit)


def phrase(attribute: str, value: str) -> str:
    """The words of a caption that tell one attribute: 'closed eyes'."""
    return _PHRASES[attribute].format(value)


def draw(face: Face) -> Image.Image:
    """Paint a face as an RGB picture of 64 x 64 px."""
    rng = random.Random(face.variation)
    shift_x, shift_y = (rng.uniform(-1, 1), rng.uniform(-1, 1)) if face.variation else (0.0, 0.0)

    def colour(kind: str) -> tuple[int, ...]:
        base = _COLOURS[kind][getattr(face, kind)]
        return tuple(max(0, min(255, c + (rng.randint(-8, 8) if face.variation else 0))) for c in base)

    background, hair, skin = colour("background"), colour("hair"), colour("skin")
    picture = Image.new("RGB", (SIZE * _OVERSAMPLE,) * 2, background)
    pen = ImageDraw.Draw(picture)
    cx, cy = _CENTRES[face.position] + shift_x, _Y + shift_y

    def box(dx: float, dy: float, rx: float, ry: float) -> tuple[float, ...]:
        """Corners, in oversampled pixels, of an ellipse at an offset from the face's centre."""
        corners = (cx + dx - rx, cy + dy - ry, cx + dx + rx, cy + dy + ry)
        return tuple(value * _OVERSAMPLE for value in corners)

    pen.ellipse(box(0, -5, 20, 22), fill=hair)
    pen.ellipse(box(0, 3, 16.5, 20), fill=skin)
    for side in (-7, 7):
        if face.eyes == "open":
            pen.ellipse(box(side, -2, 5.5, 5), fill=(255, 255, 255))
            pen.ellipse(box(side, -2, 2.5, 2.5), fill=(20, 30, 90))
        else:
            pen.arc(box(side, -4, 5.5, 4.5), 15, 165, fill=(40, 20, 20), width=2 * _OVERSAMPLE)
    if face.mouth == "open":
        pen.ellipse(box(0, 13, 6.5, 5), fill=(120, 10, 30))
    else:
        pen.arc(box(0, 9, 7, 5), 20, 160, fill=(120, 10, 30), width=2 * _OVERSAMPLE)

    picture = picture.resize((SIZE, SIZE), Image.Resampling.BOX)
    if face.style == "textured":
        pixels = np.asarray(picture, dtype=np.float64) * (1 - _DOT_DEPTH * _DOTS[..., None])
        picture = Image.fromarray(pixels.round().astype(np.uint8))
    return picture


def _dots() -> np.ndarray:
    """The texture: (SIZE, SIZE), 1 inside a dot, 0 outside.

    One dot in every second 8 x 8 px cell, like a chess board. The VAE cannot decode a finer pattern: its decoder
    sees no position inside a latent cell, only the contrast between cells.
    """
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(x % 8 - 3.5, y % 8 - 3.5)
    result: np.ndarray = np.clip(3.0 - distance, 0, 1) * ((x // 8 + y // 8) % 2 == 0)
    return result


_DOTS = _dots()


def _nearest(kind: str, colour: np.ndarray) -> str:
    return min(_COLOURS[kind], key=lambda name: float(np.abs(colour - np.array(_COLOURS[kind][name])).sum()))


def measure(picture: Image.Image | np.ndarray) -> dict[str, Any]:
    """The measurements behind `detect`.

    Args:
        picture: RGB, 64 x 64 px; an array has shape (64, 64, 3) and values 0 .. 255.

    Returns:
        Colours (RGB arrays), `centre` (px), and as shares from 0 to about 1 `eye_white`, `mouth_dark`, `dots`.
    """
    pixels = np.asarray(picture, dtype=np.float64)
    if pixels.shape != (SIZE, SIZE, 3):
        raise ValueError(f"the detector reads {SIZE} x {SIZE} RGB pictures, got an array of shape {pixels.shape}")
    corners = np.concatenate([pixels[2:10, 0:4].reshape(-1, 3), pixels[2:10, 60:64].reshape(-1, 3)])
    background = np.median(corners, axis=0)
    centre = _head_centre(pixels, background)
    cx = min(_CENTRES.values(), key=lambda value: abs(value - centre))

    def region(source: np.ndarray, dx: int, dy: int, rx: int, ry: int) -> np.ndarray:
        return source[_Y + dy - ry : _Y + dy + ry + 1, cx + dx - rx : cx + dx + rx + 1].reshape(-1, *source.shape[2:])

    hair = np.median(region(pixels, 0, -22, 5, 2), axis=0)
    bare = [
        region(pixels, 0, -10, 10, 2),
        region(pixels, 0, 6, 11, 1),
        region(pixels, -11, 9, 2, 3),
        region(pixels, 11, 9, 2, 3),
    ]
    skin = np.median(np.concatenate(bare), axis=0)
    # Both are shares of the way from the skin's colour to the painted one, so that 0 is skin and 1 is paint.
    white = (pixels[..., 2] - skin[2]) / max(255 - skin[2], 1)
    eye_white = min(float(np.sort(region(white, dx, -2, 5, 4))[-40:].mean()) for dx in (-7, 7))
    mouth_dark = float((skin[1] - region(pixels, 0, 11, 3, 3)[:, 1]).mean() / max(skin[1] - 10, 1))
    return {
        "background": background, "hair": hair, "skin": skin, "centre": centre,
        "eye_white": eye_white, "mouth_dark": mouth_dark, "dots": _dot_depth(pixels, background, cx),
    }  # fmt: skip


def _head_centre(pixels: np.ndarray, background: np.ndarray) -> float:
    """The mean column, px, of those that are mostly not background at the height of the head."""
    foreign = np.abs(pixels - background).sum(axis=2)[20:50] > 90
    columns = np.flatnonzero(foreign.mean(axis=0) > 0.5)
    return float(columns.mean()) if len(columns) else SIZE / 2


def _dot_depth(pixels: np.ndarray, background: np.ndarray, cx: int) -> float:
    """How much darker the dots are than their surroundings; only outside the head, where nothing else is painted."""
    outside = np.ones((SIZE, SIZE), dtype=bool)
    outside[_Y - 28 : _Y + 25, max(0, cx - 22) : cx + 23] = False
    brightness = pixels.mean(axis=2) / max(float(background.mean()), 1.0)
    return float(brightness[outside & (_DOTS == 0)].mean() - brightness[outside & (_DOTS > 0.5)].mean())


def detect(picture: Image.Image | np.ndarray) -> dict[str, str]:
    """Read every attribute of a picture; same keys and values as `Face.attributes`."""
    reading = measure(picture)
    return {
        "eyes": "open" if reading["eye_white"] > _EYE_THRESHOLD else "closed",
        "mouth": "open" if reading["mouth_dark"] > _MOUTH_THRESHOLD else "smiling",
        "hair": _nearest("hair", reading["hair"]),
        "skin": _nearest("skin", reading["skin"]),
        "background": _nearest("background", reading["background"]),
        "position": min(_CENTRES, key=lambda name: abs(_CENTRES[name] - reading["centre"])),
        "style": "textured" if reading["dots"] > _DOT_THRESHOLD else "flat",
    }
