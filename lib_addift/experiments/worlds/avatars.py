"""A second synthetic world: avatars drawn by an artist (avataaars, by Pablo Stanley), through python-avatars and resvg.

The same interface as `demo.world`: `draw` renders a 128 x 128 picture of an avatar from independent attributes,
`detect` reads them back from any picture by plain arithmetic on pixels, `caption` writes the prompt. Nothing in the
extension is tuned on it. Only `draw` needs the packages python-avatars and resvg-py (tests/requirements.txt).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from lib_addift.data.pictures import load_picture

SIZE = 128
_WINDOW = (40, 34, 184)  # left, top and side of the square that is shown, in the units of the artist's 264 x 280 canvas
_COLOURS = {
    "hair": {"black": (44, 27, 24), "blond": (235, 195, 80), "red": (201, 51, 5)},
    "skin": {"light": (255, 219, 180), "dark": (150, 95, 65)},
    "clothes": {"white": (240, 240, 240), "pink": (255, 72, 142), "blue": (37, 85, 160)},
}
_BACKGROUND = "#aac3d7"
_HAT_COLOUR = "#3C4F5C"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "eyes": ("open", "closed"),
    "mouth": ("smiling", "serious"),
    "hair": tuple(_COLOURS["hair"]),
    "beard": ("no", "full"),
    "glasses": ("no", "black"),
    "hat": ("no", "winter"),
    "skin": tuple(_COLOURS["skin"]),
    "clothes": tuple(_COLOURS["clothes"]),
}
_PHRASES = {
    "eyes": "{} eyes",
    "mouth": "{} mouth",
    "hair": "{} hair",
    "beard": "{} beard",
    "glasses": "{} glasses",
    "hat": "{} hat",
    "skin": "{} skin",
    "clothes": "{} clothes",
}


@dataclass(frozen=True)
class Avatar:
    """One picture's attributes (see ATTRIBUTES for the values) and its small individual variation."""

    eyes: str = "open"
    mouth: str = "smiling"
    hair: str = "black"
    beard: str = "no"
    glasses: str = "no"
    hat: str = "no"
    skin: str = "light"
    clothes: str = "white"
    variation: int = 0  # seed of a shift of up to 1 px and a few grey levels of colour

    def attributes(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ATTRIBUTES}


def random_avatar(rng: random.Random, **fixed: Any) -> Avatar:
    """An avatar with every attribute uniformly random, except the given ones."""
    values = {name: rng.choice(options) for name, options in ATTRIBUTES.items()}
    return Avatar(**{**values, "variation": rng.randrange(1, 2**31), **fixed})


def caption(avatar: Avatar, omit: frozenset[str] = frozenset()) -> str:
    """The prompt for an avatar, without the attributes in `omit`."""
    return ", ".join(phrase(name, getattr(avatar, name)) for name in _PHRASES if name not in omit)


def phrase(attribute: str, value: str) -> str:
    """The words of a caption that tell one attribute: 'closed eyes'."""
    return _PHRASES[attribute].format(value)


def draw(avatar: Avatar) -> Image.Image:
    """Render an avatar as an RGB picture of 128 x 128 px. Raises ImportError without python-avatars and resvg-py."""
    import resvg_py

    rng = random.Random(avatar.variation)
    shift = [rng.uniform(-1, 1) * _WINDOW[2] / SIZE if avatar.variation else 0.0 for _ in range(2)]

    def colour(kind: str) -> str:
        base = _COLOURS[kind][getattr(avatar, kind)]
        varied = (max(0, min(255, c + (rng.randint(-6, 6) if avatar.variation else 0))) for c in base)
        return "#" + "".join(f"{c:02x}" for c in varied)

    colours = {kind: colour(kind) for kind in _COLOURS}
    svg = _svg(avatar, colours)
    left, top, side = _WINDOW
    svg.set("viewBox", f"{left + shift[0]} {top + shift[1]} {side} {side}")
    svg.set("width", str(SIZE))
    svg.set("height", str(SIZE))
    png = resvg_py.svg_to_bytes(
        svg_string=ElementTree.tostring(svg, encoding="unicode"),
        width=SIZE, background=_BACKGROUND, skip_system_fonts=True,
    )  # fmt: skip
    return load_picture(bytes(png), "avatar")


def _svg(avatar: Avatar, colours: dict[str, str]) -> ElementTree.Element:
    """The artist's parts put together. A hat replaces the hair in python-avatars; here it is laid over it."""
    import python_avatars as parts

    def render(top: Any) -> ElementTree.Element:
        return ElementTree.fromstring(str(parts.Avatar(
            top=top, style=parts.AvatarStyle.TRANSPARENT,
            eyes=parts.EyeType.CLOSED if avatar.eyes == "closed" else parts.EyeType.DEFAULT,
            mouth=parts.MouthType.SMILE if avatar.mouth == "smiling" else parts.MouthType.SERIOUS,
            facial_hair=parts.FacialHairType.BEARD_MEDIUM if avatar.beard == "full" else parts.FacialHairType.NONE,
            accessory=parts.AccessoryType.PRESCRIPTION_2 if avatar.glasses == "black" else parts.AccessoryType.NONE,
            skin_color=colours["skin"], hair_color=colours["hair"], facial_hair_color=colours["hair"],
            clothing=parts.ClothingType.SHIRT_CREW_NECK, clothing_color=colours["clothes"], hat_color=_HAT_COLOUR,
        ).render()))  # fmt: skip

    svg = render(parts.HairType.BOB)
    if avatar.hat == "winter":
        _top(svg).extend(_top(render(parts.HatType.WINTER_HAT_3)))
    return svg


def _top(svg: ElementTree.Element) -> ElementTree.Element:
    """The group of an avatar's hair or hat, with beard and glasses."""
    group = svg.find(".//*[@id='transparent_Top']")
    assert group is not None
    return group


_WHITE = (244, 244, 244)  # of the hat's rim
# Where the parts are: left, top, right and bottom of boxes, px, from both sides of the face where it has two.
_BOXES = {
    "hair": ((8, 78, 18, 100), (110, 78, 120, 100)),
    "skin": ((60, 54, 68, 62),),
    "clothes": ((24, 121, 36, 126), (92, 121, 104, 126)),
    "beard": ((40, 86, 49, 97), (79, 86, 88, 97)),
    "hat": ((24, 18, 36, 30), (92, 18, 104, 30)),
    "glasses": ((61, 43, 67, 51),),
    "pupils": ((44, 51, 48, 56), (80, 51, 84, 56)),
    "lids": ((40, 58, 48, 61), (80, 58, 88, 61)),
    "tongue": ((58, 87, 70, 90),),
}


def measure(picture: Image.Image | np.ndarray) -> dict[str, Any]:
    """The measurements behind `detect`.

    Args:
        picture: RGB, 128 x 128 px; an array has shape (128, 128, 3) and values 0 .. 255.

    Returns:
        Colours (RGB arrays), and as shares from 0 to about 1 `beard`, `hat`, `glasses`, `pupil`, `tongue`.
    """
    pixels = np.asarray(picture, dtype=np.float64)
    if pixels.shape != (SIZE, SIZE, 3):
        raise ValueError(f"the detector reads {SIZE} x {SIZE} RGB pictures, got an array of shape {pixels.shape}")
    colours = {kind: np.median(_region(pixels, kind), axis=0) for kind in _COLOURS}
    skin, hair = colours["skin"], colours["hair"]

    def darkness(region: np.ndarray) -> float:
        """0 for skin, 1 for black."""
        return float(1 - region.mean() / max(skin.mean(), 1.0))

    tongue = _region(pixels, "tongue").mean(axis=0)
    return {
        **colours,
        "beard": _way(skin, hair, np.median(_region(pixels, "beard"), axis=0)),
        "hat": _way(hair, np.array(_WHITE), np.median(_region(pixels, "hat"), axis=0)),
        "glasses": max(darkness(row) for row in _rows(pixels, "glasses")),
        "pupil": darkness(_region(pixels, "pupils")) - darkness(_region(pixels, "lids")),
        "tongue": float(tongue[0] - tongue[1]) / 255,
    }  # fmt: skip


def _region(pixels: np.ndarray, part: str) -> np.ndarray:
    """The pixels of a part's boxes, (count, 3)."""
    boxes = [pixels[top:bottom, left:right].reshape(-1, 3) for left, top, right, bottom in _BOXES[part]]
    return np.concatenate(boxes)


def _rows(pixels: np.ndarray, part: str) -> np.ndarray:
    """The mean colour of every two rows of a part's only box, (rows, 3)."""
    ((left, top, right, bottom),) = _BOXES[part]
    rows = pixels[top:bottom, left:right].mean(axis=1)
    result: np.ndarray = (rows[:-1] + rows[1:]) / 2
    return result


def _way(start: np.ndarray, end: np.ndarray, colour: np.ndarray) -> float:
    """Where a colour lies between two others: 0 at `start`, 1 at `end`."""
    step = end - start
    return float((colour - start) @ step / max(float(step @ step), 1.0))


def _nearest(kind: str, colour: np.ndarray) -> str:
    return min(_COLOURS[kind], key=lambda name: float(np.abs(colour - np.array(_COLOURS[kind][name])).sum()))


def detect(picture: Image.Image | np.ndarray) -> dict[str, str]:
    """Read every attribute of a picture; same keys and values as `Avatar.attributes`."""
    reading = measure(picture)
    return {
        "eyes": "open" if reading["pupil"] > 0.0 else "closed",
        "mouth": "smiling" if reading["tongue"] > 0.42 else "serious",
        "hair": _nearest("hair", reading["hair"]),
        "beard": "full" if reading["beard"] > 0.5 else "no",
        "glasses": "black" if reading["glasses"] > 0.3 else "no",
        "hat": "winter" if reading["hat"] > 0.5 else "no",
        "skin": _nearest("skin", reading["skin"]),
        "clothes": _nearest("clothes", reading["clothes"]),
    }
