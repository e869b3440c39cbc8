"""One picture, as a person has it: opened, checked, upright, and as RGB or RGBA with 8 bits a channel."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from lib_addift.errors import PictureError

PictureSource = str | Path | bytes | Image.Image | np.ndarray  # bytes: a picture file's contents
Size = tuple[int, int]  # width, height in px

GRID = 64  # px; 8 of the VAE times 8 of the UNet's three halvings
MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000
# Pillow knows many more, some of which start other programs (EPS: Ghostscript) or were made to be attacked.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF")  # MPO: JPEG of cameras
_SAVE_AS = "save it as PNG, JPEG or WebP"
_ORIENTATION = 0x0112  # tag of EXIF; 1: upright
_SIDEWAYS = (5, 6, 7, 8)  # orientations in which width and height change places


def load_picture(source: PictureSource, role: str) -> Image.Image:
    """Open, check and orient a picture: RGBA when some of it is transparent, else RGB; of an animation the first frame.

    A picture that is so already, such as what this function returned, is only checked and returned as it is.

    Args:
        source: a path, a file's contents, a Pillow picture, or an array of (H, W), (H, W, 3) or (H, W, 4), uint8 or
            float in 0..1.
        role: what messages call it: original, target or mask.

    Raises:
        PictureError: it cannot be read, has a side below 64 px, or is too large.
    """
    with _reading(_named(source, role)) as name, warnings.catch_warnings():
        # Pillow warns about large sizes, odd EXIF and palettes; what matters of that raises PictureError here.
        warnings.simplefilter("ignore")
        if isinstance(source, (str, Path, bytes)):
            with _opened(source, name) as opened:
                return _decoded(opened, name)
        return _decoded(_from_array(source, name) if isinstance(source, np.ndarray) else source, name)


def picture_size(source: str | Path | bytes, role: str) -> Size:
    """Width and height in px of an upright picture, from its file's header: no pixel is decoded.

    Raises PictureError as `load_picture`, but for what only the pixels show. Pillow may warn, once for all threads.
    """
    with _reading(_named(source, role)) as name, _opened(source, name) as opened:
        _check_size(opened.size, name)
        # Of a PNG, Pillow would decode the pixels to look for EXIF behind them; a TIFF's size it has turned already.
        is_known = opened.format not in ("PNG", "TIFF") or "exif" in opened.info
        is_sideways = is_known and opened.getexif().get(_ORIENTATION) in _SIDEWAYS
        return (opened.height, opened.width) if is_sideways else opened.size


def read_own(file: Path) -> Image.Image:
    """A picture that this program has written, of any size and mode, as it is. Raises PictureError."""
    with _reading(f"'{file}'") as name, _opened(file, name) as opened:
        return opened.copy()


def is_supported(picture: Image.Image) -> bool:
    """Whether a picture was made in memory, or opened from a file in one of `FORMATS`; decoding others is not safe."""
    return not isinstance(picture, ImageFile.ImageFile) or picture.format in FORMATS


@contextmanager
def _reading(name: str) -> Iterator[str]:
    """Whatever Pillow raises for a broken file, as a PictureError about `name`, which it yields."""
    try:
        yield name
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(name, "far too large") from None
    except UnidentifiedImageError:
        raise PictureError(f"{name} is not a picture that can be read: {_SAVE_AS}.") from None
    except Exception as error:  # every reader has its own: OSError, SyntaxError, OverflowError, AttributeError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PictureError(f"{name} cannot be read ({reason}): save it again as PNG, or choose another.") from error


def _named(source: PictureSource, role: str) -> str:
    return f"the {role} '{source}'" if isinstance(source, (str, Path)) else f"the {role}"


def _opened(source: str | Path | bytes, name: str) -> Image.Image:
    """The one call of Pillow's `open`: only the formats above, and only those that this Pillow was built with."""
    Image.init()
    file = io.BytesIO(source) if isinstance(source, bytes) else _checked_file(source, name)
    return Image.open(file, formats=[each for each in FORMATS if each in Image.OPEN])


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
    if not is_supported(picture):
        raise PictureError(f"{name} is a {picture.format} file, which is not read here: {_SAVE_AS}.")
    if picture.getexif().get(_ORIENTATION, 1) != 1:
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
