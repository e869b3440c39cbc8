"""Two pictures and a mask, as people have them, made into one pair of arrays that can be trained on."""

from __future__ import annotations

import math
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lib_addift.config.settings import TrainConfig
from lib_addift.data.mask import difference_mask
from lib_addift.errors import PictureError

PictureSource = str | Path | Image.Image | np.ndarray
Size = tuple[int, int]  # width, height in px

GRID = 64  # px; 8 of the VAE times 8 of the UNet's three halvings
MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000
_SAME_ASPECT = 0.02
# What Pillow's readers raise for broken files.
_UNREADABLE = (OSError, SyntaxError, ValueError, NotImplementedError, LookupError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True)
class PairSource:
    """An original and its target as a person has them, and what is particular to this pair."""

    original: PictureSource
    target: PictureSource
    name: str = ""  # for messages; '' where there is only one pair
    original_prompt: str = ""  # '' = the settings' prompt, as below
    target_prompt: str = ""
    weight: float = 1.0  # of this pair's loss, beside 1 for the others'
    mask: PictureSource | None = None  # grey: white where to learn; None = as the settings say
    repeats: int = 1  # how often it is seen, beside once for the others
    is_single: bool = False  # one picture, in both places: for method lora
    is_prior: bool = False  # a single regularisation picture: what it shows is to be drawn as ever


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, so pairs compare by identity
class ImagePair:
    """An original and its target, ready to encode."""

    original: np.ndarray  # (H, W, 3) uint8, RGB; H and W multiples of 64
    target: np.ndarray  # the same shape
    mask: np.ndarray | None  # (H, W) float32 in 0..1, soft; None = everywhere
    crop: str = ""  # one sentence when the pictures were cut or scaled


def load_pair(
    original: PictureSource, target: PictureSource, config: TrainConfig, mask: PictureSource | None = None
) -> ImagePair:
    """Load two pictures, bring them to one size on the 64 px grid and find the mask: `mask`, or as `config.mask` says.

    Pictures are scaled without distortion, never enlarged, and cut around their middle. Raises PictureError.
    """
    pictures = load_picture(original, "original"), load_picture(target, "target")
    sizes = [picture.size for picture in pictures]
    frame = _Frame.around(sizes, config.resolution)
    first, second = (np.array(frame.cut(_flat(picture, "white"))) for picture in pictures)
    if np.array_equal(first, second):
        raise PictureError("the two pictures are identical, so there is nothing to learn: choose two that differ.")
    if mask is None and config.mask in ("auto", "off"):
        area = difference_mask(first, second) if config.mask == "auto" else None
        return ImagePair(first, second, area, frame.describe(sizes))
    if mask is None and config.mask == "alpha":
        grey, name = _alpha(*pictures), "mask = alpha"
    else:
        source = config.mask_file if mask is None else mask
        grey, name = _mask_picture(source, sizes), f"'{source}'" if isinstance(source, (str, Path)) else "a picture"
    area = np.asarray(frame.cut(grey), dtype=np.float32) / 255
    if not area.any():
        raise PictureError(f"the mask ({name}) is all black: make white or opaque what to learn.")
    return ImagePair(first, second, area, frame.describe(sizes))


def load_single(picture: PictureSource, config: TrainConfig, mask: PictureSource | None = None) -> ImagePair:
    """One picture as a pair of the same, for methods that learn pictures. Raises PictureError.

    `mask` is as in `load_pair`; without one all is learnt: there is no difference to say where.
    """
    opened = load_picture(picture, "picture")
    frame = _Frame.around([opened.size], config.resolution)
    pixels = np.array(frame.cut(_flat(opened, "white")))
    area = None
    if mask is not None:
        area = np.asarray(frame.cut(_mask_picture(mask, [opened.size])), dtype=np.float32) / 255
    return ImagePair(pixels, pixels, area, frame.describe([opened.size]))


def load_source(source: PairSource, config: TrainConfig) -> ImagePair:
    """The pair of a PairSource. Raises PictureError."""
    if source.is_single:
        return load_single(source.target, config, source.mask)
    return load_pair(source.original, source.target, config, source.mask)


def load_picture(source: PictureSource, role: str) -> Image.Image:
    """Open, check and orient a picture: RGBA when some of it is transparent, else RGB; of an animation the first frame.

    Args:
        source: a path, a Pillow picture, or an array of (H, W), (H, W, 3) or (H, W, 4), uint8 or float in 0..1.
        role: what messages call it: original, target or mask.

    Raises:
        PictureError: it cannot be read, has a side below 64 px, or is too large.
    """
    name = f"the {role} '{source}'" if isinstance(source, (str, Path)) else f"the {role}"
    try:
        # Pillow warns of large sizes, odd EXIF and palettes; what matters of it is checked here and said in full.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(source, (str, Path)):
                with Image.open(_checked_file(source, name)) as opened:
                    return _decoded(opened, name)
            return _decoded(_from_array(source, name) if isinstance(source, np.ndarray) else source, name)
    except Image.DecompressionBombError:
        raise _too_large(name, "far too large") from None
    except UnidentifiedImageError:
        raise PictureError(f"{name} is not a picture that can be read: save it as PNG, JPEG or WebP.") from None
    except _UNREADABLE as error:
        raise PictureError(f"{name} cannot be read ({error}): save it again as PNG, or choose another.") from error


def _checked_file(source: str | Path, name: str) -> str:
    path = str(source)
    if not path.strip():
        raise PictureError(f"{name} is missing: choose a picture.")
    if os.path.isdir(path):
        raise PictureError(f"{name} is a folder: name a picture in it.")
    if not os.path.isfile(path):
        raise PictureError(f"{name} does not exist: check the path.")
    if os.path.getsize(path) == 0:
        raise PictureError(f"{name} is an empty file (0 bytes): save or download it again.")
    return path


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """A picture from uint8, or from float in 0..1, of (H, W), (H, W, 3) or (H, W, 4)."""
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise PictureError(f"{name} is an array of shape {array.shape}: give (H, W), (H, W, 3) or (H, W, 4).")
    _check_size((array.shape[1], array.shape[0]), name)
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # NaN fails as well
            raise PictureError(f"{name} has values from {array.min()} to {array.max()}: bring them to 0..1.")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise PictureError(f"{name} is an array of {array.dtype}: give uint8, or float in 0..1.")
    return Image.fromarray(array)


def _too_large(name: str, size: str) -> PictureError:
    limit = f"{MAX_SIDE} px a side and {MAX_PIXELS // 1_000_000} megapixels"
    return PictureError(f"{name} is {size}: use at most {limit}; scale it down.")


def _check_size(size: Size, name: str) -> None:
    text = f"{size[0]} x {size[1]} px"
    if min(size) < GRID:
        raise PictureError(f"{name} is {text}: each side needs at least {GRID} px; use a larger picture.")
    if max(size) > MAX_SIDE or size[0] * size[1] > MAX_PIXELS:
        raise _too_large(name, text)


def _decoded(picture: Image.Image, name: str) -> Image.Image:
    """The upright pixels as RGB, or as RGBA when some of them are transparent."""
    if not isinstance(picture, Image.Image):
        raise PictureError(f"{name} is missing or no picture: choose one.")
    _check_size(picture.size, name)  # known from the header: a huge file is refused before its pixels are decoded
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = Image.fromarray(_to_8_bit(np.asarray(picture), picture.mode))
    if picture.mode == "La":  # Pillow converts it to LA only
        picture = picture.convert("LA")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if np.asarray(picture.getchannel("A")).min() < 255:
            return picture
    return picture.convert("RGB")


def _to_8_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of a deep mode as uint8. Modes I and F do not say what white is: the next usual limit is taken."""
    peak = float(values.max())
    limits = {"I": (255, 65_535, 2**31 - 1), "F": (1, 255, 65_535)}.get(mode, (65_535,))
    white = next((limit for limit in limits if peak <= limit), peak)
    if not math.isfinite(white) or not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    return (values.clip(0) * (255 / white)).round().astype(np.uint8)


def _flat(picture: Image.Image, background: str) -> Image.Image:
    """RGB, with transparent pixels over the background."""
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, background), picture).convert("RGB")


@dataclass(frozen=True)
class _Frame:
    """What is kept of a picture: its middle of the common `aspect` (width / height), in that the aspect of `size`."""

    aspect: Fraction
    size: Size

    @classmethod
    def around(cls, sizes: list[Size], resolution: int) -> _Frame:
        """The best frame for pictures of these sizes with an area of at most `resolution` squared.

        The common aspect is the one nearest to a square: then only long sides are cut and short sides agree.
        """
        aspect = sorted([Fraction(1), *(Fraction(*size) for size in sizes)])[len(sizes) // 2]
        width, height = (int(min(side)) for side in zip(*(_middle(size, aspect) for size in sizes), strict=True))
        candidates = [
            (w, h) for w in range(GRID, width + 1, GRID) for h in range(GRID, min(height, resolution**2 // w) + 1, GRID)
        ]
        return cls(aspect, max(candidates, key=lambda size: _worth(size, aspect)))

    def box(self, size: Size) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in px of what is kept of a picture of `size`."""
        width, height = _middle(_middle(size, self.aspect), Fraction(*self.size))
        left, top = (size[0] - width) / 2, (size[1] - height) / 2
        if width == self.size[0] and height == self.size[1]:  # whole px: a mere cut changes no pixel
            left, top = Fraction(int(left)), Fraction(int(top))
        return float(left), float(top), float(left + width), float(top + height)

    def cut(self, picture: Image.Image) -> Image.Image:
        """The kept part at the frame's size; Lanczos over all source pixels, so that nothing aliases."""
        return picture.resize(self.size, Image.Resampling.LANCZOS, box=self.box(picture.size))

    def describe(self, sizes: list[Size]) -> str:
        """One sentence for a person, or nothing when pictures of these sizes stay as they are."""
        if all(size == self.size for size in sizes):
            return ""
        (width, height), (first, second) = self.size, (f"{w} x {h}" for w, h in sizes)
        if not _alike(*sizes):
            return (
                f"The pictures have different proportions ({first} and {second} px), "
                f"so only the middle of both was kept, at {width} x {height} px."
            )
        kept = min(_area(self.box(size)) / (size[0] * size[1]) for size in sizes)
        cut = f", which cut off up to {1 - kept:.0%} at the edges" if kept < 0.995 else ""
        return f"The pictures ({first} and {second} px) were brought to {width} x {height} px{cut}."


def _middle(size: tuple[Fraction | int, Fraction | int], aspect: Fraction) -> tuple[Fraction, Fraction]:
    """Width and height of the largest part of `size` that has the aspect."""
    width, height = Fraction(size[0]), Fraction(size[1])
    return min(width, height * aspect), min(height, width / aspect)


def _worth(size: Size, aspect: Fraction) -> float:
    """How much a picture of this aspect shows at this size: the share that is kept times the scale."""
    stretch = size[0] / (size[1] * float(aspect))
    return min(stretch, 1 / stretch) * math.sqrt(size[0] * size[1])


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _alike(first: Size, second: Size) -> bool:
    """Whether two sizes have the same proportions, but for rounding by whoever made the pictures."""
    return abs(math.log(first[0] * second[1] / (first[1] * second[0]))) <= _SAME_ASPECT


def _alpha(original: Image.Image, target: Image.Image) -> Image.Image:
    """The transparency of the target, or else of the original, as a grey picture."""
    for picture in (target, original):
        if picture.mode == "RGBA":
            return picture.getchannel("A")
    raise PictureError("mask = alpha needs transparency and neither picture has any: erase a part, or use mask = auto.")


def _mask_picture(source: PictureSource, sizes: list[Size]) -> Image.Image:
    """A grey picture with the proportions of one of the pictures."""
    mask = load_picture(source, "mask")
    if not any(_alike(mask.size, size) for size in sizes):
        name = f"the mask '{source}'" if isinstance(source, (str, Path)) else "the mask"
        raise PictureError(
            f"{name} is {mask.size[0]} x {mask.size[1]} px, which fits neither picture: "
            f"give it the proportions of {sizes[0][0]} x {sizes[0][1]} px."
        )
    return _flat(mask, "black").convert("L")  # black: what is left transparent is not painted
