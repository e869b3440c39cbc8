"""Two pictures and a mask, brought to one size: a pair of arrays to train on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.mask import difference_mask
from lib_addift.data.pictures import GRID, PictureSource, Size, flatten, load_picture, picture_size
from lib_addift.data.shift import Shift, find_shift, move_back
from lib_addift.errors import PictureError

_SAME_ASPECT = 0.02  # difference of the logarithms of two aspects that counts as rounding


@dataclass(frozen=True)
class PairSource:
    """An original and its target as the person gave them, and the settings of this pair alone."""

    original: PictureSource
    target: PictureSource
    name: str = ""  # for messages; '' where there is only one pair
    original_prompt: str = ""  # '' = the settings' prompt, as below
    target_prompt: str = ""
    weight: float = 1.0  # factor of this pair's loss
    mask: PictureSource | None = None  # grey: white where to learn; None = as the settings say
    repeats: int = 1  # how often it is used in each round over the pairs
    is_single: bool = False  # original and target are one picture: for method lora
    is_prior: bool = False  # a regularisation picture, also single: keeps what the model knows


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, so pairs compare by identity
class ImagePair:
    """An original and its target, ready to encode."""

    original: np.ndarray  # (H, W, 3) uint8, RGB; H and W multiples of 64
    target: np.ndarray  # the same shape
    mask: np.ndarray | None  # (H, W) float32 in 0..1, soft; None = everywhere
    crop: str = ""  # one sentence when the pictures were cut or scaled
    aligned: Shift = (0.0, 0.0)  # px; how far the target was moved, and was moved back
    transparency: str = (
        ""  # 'same' or 'other' in both pictures, where it was laid on white; '' = none, or it is the mask
    )


def load_pair(
    original: PictureSource, target: PictureSource, config: TrainConfig, mask: PictureSource | None = None
) -> ImagePair:
    """Load two pictures, bring them to one size on the 64 px grid and find the mask: `mask`, or as `config.mask` says.

    Pictures are scaled without distortion, never enlarged, and cut around their middle. Raises PictureError.
    """
    pictures = load_picture(original, "original"), load_picture(target, "target")
    sizes = [picture.size for picture in pictures]
    frame = _Frame.around(sizes, config.resolution)
    first, second = (np.array(frame.cut(flatten(picture, "white"))) for picture in pictures)
    shift = find_shift(first, second) if config.align else (0.0, 0.0)
    second = move_back(second, shift, first)
    if np.array_equal(first, second):
        moved = ", moved back," if any(shift) else ""
        raise PictureError(
            f"the two pictures are{moved} identical, so there is nothing to learn: choose two that differ."
        )
    pair = ImagePair(first, second, None, frame.describe(sizes), shift)
    if mask is None and config.mask == "alpha":
        return replace(pair, mask=_usable(_alpha(*pictures, frame, shift), "mask = alpha"))
    pair = replace(pair, transparency=_transparency(*pictures, frame))
    if mask is None and config.mask in ("auto", "off"):
        return replace(pair, mask=difference_mask(first, second) if config.mask == "auto" else None)
    source = config.mask_file if mask is None else mask
    name = f"'{source}'" if isinstance(source, (str, Path)) else "a picture"
    return replace(pair, mask=_usable(_as_area(frame.cut(_mask_picture(source, sizes))), name))


def size_of(source: PairSource, config: TrainConfig) -> Size:
    """Width and height in px that the pair of a PairSource of files will have, known from the files' headers alone.

    Raises PictureError for what the headers show of its pictures and its mask.
    """
    if source.is_single:
        sizes = [_file_size(source.target, "picture")]
    else:
        sizes = [_file_size(source.original, "original"), _file_size(source.target, "target")]
    mask = source.mask or (config.mask_file if config.mask == "file" and not source.is_single else None)
    if mask is not None:
        _check_mask_size(mask, _file_size(mask, "mask"), sizes)
    return _Frame.around(sizes, config.resolution).size


def load_single(picture: PictureSource, config: TrainConfig, mask: PictureSource | None = None) -> ImagePair:
    """One picture as a pair of the same, for methods that learn pictures. Raises PictureError.

    `mask` is as in `load_pair`; without one all is learnt: there is no difference to say where.
    """
    opened = load_picture(picture, "picture")
    frame = _Frame.around([opened.size], config.resolution)
    pixels = np.array(frame.cut(flatten(opened, "white")))
    area = None
    if mask is not None:
        area = _as_area(frame.cut(_mask_picture(mask, [opened.size])))
    return ImagePair(pixels, pixels, area, frame.describe([opened.size]))


def load_source(source: PairSource, config: TrainConfig) -> ImagePair:
    """The pair of a PairSource. Raises PictureError."""
    if source.is_single:
        return load_single(source.target, config, source.mask)
    return load_pair(source.original, source.target, config, source.mask)


@dataclass(frozen=True)
class _Frame:
    """A crop: the middle of a picture in the common `aspect` (width / height), of that the aspect of `size`."""

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
        if (
            width == self.size[0] and height == self.size[1]
        ):  # whole px, so that a crop without scaling changes no pixel
            left, top = Fraction(int(left)), Fraction(int(top))
        return float(left), float(top), float(left + width), float(top + height)

    def cut(self, picture: Image.Image) -> Image.Image:
        """The kept part at the frame's size; Lanczos over all source pixels, to avoid aliasing."""
        return picture.resize(self.size, Image.Resampling.LANCZOS, box=self.box(picture.size))

    def describe(self, sizes: list[Size]) -> str:
        """One sentence on how pictures of these sizes are cut and scaled; '' when they are not."""
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
    """The score of a size for pictures of this aspect: the share of the picture that is kept times the scale."""
    stretch = size[0] / (size[1] * float(aspect))
    return min(stretch, 1 / stretch) * math.sqrt(size[0] * size[1])


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _alike(first: Size, second: Size) -> bool:
    """Whether two sizes have the same proportions up to rounding."""
    return abs(math.log(first[0] * second[1] / (first[1] * second[0]))) <= _SAME_ASPECT


def _alpha(original: Image.Image, target: Image.Image, frame: _Frame, shift: Shift) -> np.ndarray:
    """The opacity of the target, moved back by `shift`, or else of the original, (H, W) in 0..1."""
    if target.mode == "RGBA":
        return _as_area(move_back(np.array(frame.cut(target.getchannel("A"))), shift))
    if original.mode == "RGBA":
        return _as_area(frame.cut(original.getchannel("A")))
    raise PictureError("mask = alpha needs transparency and neither picture has any: erase a part, or use mask = auto.")


def _transparency(original: Image.Image, target: Image.Image, frame: _Frame) -> str:
    """What `ImagePair.transparency` says of two pictures whose transparent parts were laid on white."""
    if original.mode == target.mode == "RGB":
        return ""
    first, second = (np.asarray(frame.cut(picture.convert("RGBA").getchannel("A"))) for picture in (original, target))
    return "same" if np.array_equal(first, second) else "other"


def _as_area(grey: Image.Image | np.ndarray) -> np.ndarray:
    return np.asarray(grey, dtype=np.float32) / 255


def _usable(area: np.ndarray, name: str) -> np.ndarray:
    if not area.any():
        raise PictureError(f"the mask ({name}) is all black: make white or opaque what to learn.")
    return area


def _mask_picture(source: PictureSource, sizes: list[Size]) -> Image.Image:
    """A grey picture with the proportions of one of the pictures."""
    mask = load_picture(source, "mask")
    _check_mask_size(source, mask.size, sizes)
    return flatten(mask, "black").convert("L")  # transparent parts of a mask count as not painted


def _check_mask_size(source: PictureSource, size: Size, sizes: list[Size]) -> None:
    if not any(_alike(size, picture) for picture in sizes):
        name = f"the mask '{source}'" if isinstance(source, (str, Path)) else "the mask"
        raise PictureError(
            f"{name} is {size[0]} x {size[1]} px, which fits neither picture: "
            f"give it the proportions of {sizes[0][0]} x {sizes[0][1]} px."
        )


def _file_size(source: PictureSource, role: str) -> Size:
    if isinstance(source, (str, Path, bytes)):
        return picture_size(source, role)
    return load_picture(source, role).size
