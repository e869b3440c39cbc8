"""Pictures of requests: base64, or files in folders that are open to the API; and pictures of answers as base64.

Nothing is decoded here. `check_pixels` reads the headers of all pictures of a request; then they are decoded one pair
after the other, where they are fitted.
"""

from __future__ import annotations

import base64
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from lib_addift.api.paths import allowed_file
from lib_addift.data.pictures import picture_size
from lib_addift.errors import PictureError
from lib_addift.files import png_bytes

MAX_PICTURE = 64 * 2**20  # bytes of a picture file
MAX_ENCODED = MAX_PICTURE // 3 * 4 + 1024  # characters of the same as base64, 'data:...' included
MAX_REQUEST_PIXELS = 100_000_000  # of all pictures of a request
_REMEDY = "send PNG, JPEG, WebP, BMP, GIF or TIFF"
EncodedPicture = bytes | Path  # a picture file's contents, or the file

decoding = threading.Lock()  # held by the routes that decode pictures at once: the memory for it is taken once


def read_picture(data: str | None, path: str | None, role: str, folders: Sequence[Path]) -> EncodedPicture:
    """The picture file that a request gives as `role` (base64) or as `role`_path. Raises PictureError."""
    if data is None and path is None:
        raise PictureError(f"the {role} is missing: give '{role}' (base64) or '{role}_path'.")
    if data is not None and path is not None:
        raise PictureError(f"'{role}' and '{role}_path' are both given: leave one of them out.")
    picture = _decoded(data, role) if data is not None else allowed_file(path or "", f"{role}_path", folders)
    if (len(picture) if isinstance(picture, bytes) else _file_bytes(picture)) > MAX_PICTURE:
        raise PictureError(f"the {role} has more than {MAX_PICTURE >> 20} MB: scale it down.")
    return picture


def check_pixels(pictures: Iterable[tuple[str, EncodedPicture]]) -> None:
    """Count the pixels of all pictures of a request, each with its role, before one of them is decoded.

    Raises PictureError when there are too many, and for a picture whose header cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large pictures
        sizes = [picture_size(picture, role) for role, picture in pictures]
    pixels = sum(width * height for width, height in sizes)
    if pixels > MAX_REQUEST_PIXELS:
        raise PictureError(
            f"the {len(sizes)} pictures of the request have {pixels / 1e6:.0f} megapixels together, and at most "
            f"{MAX_REQUEST_PIXELS // 1_000_000} are decoded: scale them down, or send fewer."
        )


def encode_png(picture: Image.Image) -> str:
    """PNG as base64."""
    return base64.b64encode(png_bytes(picture)).decode("ascii")


def _file_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
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
