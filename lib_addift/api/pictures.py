"""Pictures of requests: base64, or files in folders that the API may read; and pictures of answers as base64."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

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


def allowed_file(given: str, field: str, folders: Sequence[Path]) -> Path:
    """The file that `given` names, absolute or within one of `folders`, if it lies in one of them, links followed.

    Raises PictureError, with the same words whether a file elsewhere exists or not.
    """
    if not folders:
        raise PictureError(f"{field} is refused, as this WebUI opens no folders to the API: send base64 instead.")
    for folder in folders:
        file = _inside(folder, given)
        if file is not None:
            return file
    raise PictureError(
        f"{field} = {given[:300]!r} is no file in a folder that this WebUI opens to the API "
        f"({', '.join(map(str, folders))}): put it there, or send base64 instead."
    )


def encode_png(picture: Image.Image) -> str:
    """PNG as base64."""
    return base64.b64encode(png_bytes(picture)).decode("ascii")


def _inside(folder: Path, given: str) -> Path | None:
    """The existing file in `folder`, or None."""
    try:
        root = folder.resolve()
        # First as text only: on Windows, merely asking for \\server\share\x logs in at that server.
        named = Path(os.path.abspath(folder / given))
        if not any(named.is_relative_to(start) for start in (root, os.path.abspath(folder))):
            return None
        real = named.resolve(strict=True)
        return real if real.is_relative_to(root) and real.is_file() else None
    except (OSError, ValueError, RuntimeError):  # missing, or no name of a file at all, or a link to itself
        return None


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
