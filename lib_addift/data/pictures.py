"""One picture, as a person has it: opened, checked, upright, and as RGB or RGBA with 8 bits a channel."""

from __future__ import annotations

import math
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lib_addift.errors import PictureError

PictureSource = str | Path | Image.Image | np.ndarray
Size = tuple[int, int]  # width, height in px

GRID = 64  # px; 8 of the VAE times 8 of the UNet's three halvings
MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # tag of EXIF; 1: upright
# What Pillow's readers raise for broken files.
_UNREADABLE = (OSError, SyntaxError, ValueError, NotImplementedError, LookupError, EOFError, struct.error, zlib.error)


def load_picture(source: PictureSource, role: str) -> Image.Image:
    """Open, check and orient a picture: RGBA when some of it is transparent, else RGB; of an animation the first frame.

    A picture that is so already, such as what this function returned, is only checked and returned as it is.

    Args:
        source: a path, a Pillow picture, or an array of (H, W), (H, W, 3) or (H, W, 4), uint8 or float in 0..1.
        role: what messages call it: original, target or mask.

    Raises:
        PictureError: it cannot be read, has a side below 64 px, or is too large.
    """
    name = f"the {role} '{source}'" if isinstance(source, (str, Path)) else f"the {role}"
    try:
        # Pillow warns about large sizes, odd EXIF and palettes; what matters of that raises PictureError here.
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
    if _is_decoded(picture):
        return picture
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


def _is_decoded(picture: Image.Image) -> bool:
    """Whether the pixels are in memory, upright, and RGB or RGBA with a transparent part."""
    if type(picture) is not Image.Image or picture.readonly:  # it reads a file on demand, or shares an array's memory
        return False
    if "transparency" in picture.info or picture.getexif().get(_ORIENTATION, 1) != 1:
        return False
    if picture.mode == "RGBA":
        return bool(np.asarray(picture.getchannel("A")).min() < 255)
    return picture.mode == "RGB"


def _to_8_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of a deep mode as uint8. Modes I and F do not define white: the next usual limit is assumed."""
    peak = float(values.max())
    limits = {"I": (255, 65_535, 2**31 - 1), "F": (1, 255, 65_535)}.get(mode, (65_535,))
    white = next((limit for limit in limits if peak <= limit), peak)
    if not math.isfinite(white) or not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    return (values.clip(0) * (255 / white)).round().astype(np.uint8)


def flatten(picture: Image.Image, background: str) -> Image.Image:
    """The picture as RGB, with transparent pixels composited over the colour `background`."""
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, background), picture).convert("RGB")
