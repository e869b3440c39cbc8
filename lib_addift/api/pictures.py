"""Pictures of requests: base64, or files in folders that are open to the API; and pictures of answers as base64."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lib_addift.api.paths import allowed_file
from lib_addift.data.pictures import load_picture
from lib_addift.errors import PictureError
from lib_addift.files import png_bytes

MAX_PICTURE = 64 * 2**20  # bytes of a picture file
MAX_ENCODED = MAX_PICTURE // 3 * 4 + 1024  # characters of the same as base64, 'data:...' included
# Pillow knows many more, some of which start other programs or were made to be attacked.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_REMEDY = "send PNG, JPEG, WebP, BMP, GIF or TIFF"


def read_picture(data: str | None, path: str | None, role: str, folders: Sequence[Path]) -> Image.Image:
    """The picture that a request gives as `role` (base64) or as `role`_path. Raises PictureError."""
    if data is None and path is None:
        raise PictureError(f"the {role} is missing: give '{role}' (base64) or '{role}_path'.")
    if data is not None and path is not None:
        raise PictureError(f"'{role}' and '{role}_path' are both given: leave one of them out.")
    content = _decoded(data, role) if data is not None else _read(allowed_file(path or "", f"{role}_path", folders))
    if len(content) > MAX_PICTURE:
        raise PictureError(f"the {role} has more than {MAX_PICTURE >> 20} MB: scale it down.")
    try:
        # load_picture decodes at once: Pillow itself would do so on demand, in whichever thread needs the pixels first.
        return load_picture(Image.open(io.BytesIO(content), formats=_FORMATS), role)
    except UnidentifiedImageError:
        raise PictureError(f"the {role} is not a picture that can be read: {_REMEDY}.") from None
    except Image.DecompressionBombError:
        raise PictureError(f"the {role} is far too large: scale it down.") from None


def encode_png(picture: Image.Image) -> str:
    """PNG as base64."""
    return base64.b64encode(png_bytes(picture)).decode("ascii")


def _read(file: Path) -> bytes:
    """A file's bytes, but no more than are needed to see that it is too large."""
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_PICTURE + 1)
    except OSError as error:
        raise PictureError(f"'{file}' cannot be read ({error.strerror}): check its permissions.") from error


def _decoded(text: str, role: str) -> bytes:
    if len(text) > MAX_ENCODED:
        raise PictureError(f"the {role} has more than {MAX_PICTURE >> 20} MB: scale it down.")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        content = b""
    if not content:
        raise PictureError(f"the {role} is no base64: {_REMEDY} as base64, or name a file with '{role}_path'.")
    return content
