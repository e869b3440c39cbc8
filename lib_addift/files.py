"""Writing files atomically, hashing them, comparing their names, and encoding pictures as PNG."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import time
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

_CHUNK = 1 << 22  # bytes read at once: checkpoints do not fit into memory twice
_TEMPORARY = re.compile(r".+\.[0-9a-f]{8}\.addift\.tmp")  # what `temporary_name` gives, and no other program does
_LEFTOVER_AGE = 600.0  # seconds; a younger temporary file may be one that is being written
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)

DATA = Path(__file__).resolve().parents[1] / "data"  # the stores of jobs, which outlive the program


def temporary_name(path: Path) -> Path:
    """A free name beside `path`, no shorter than NAME.safetensors, with an ending that WebUIs do not list."""
    return path.with_name(f"{path.stem}.{secrets.token_hex(4)}.addift.tmp")


def sweep_temporary(folder: Path, age: float = _LEFTOVER_AGE) -> list[Path]:
    """Remove what a program that was killed left in `folder`: our temporary files older than `age` seconds.

    Returns those that were removed. Any other file stays; so do all of them where the folder cannot be read.
    """
    swept = []
    with contextlib.suppress(OSError):
        for file in sorted(folder.iterdir()):
            with contextlib.suppress(OSError):
                if _TEMPORARY.fullmatch(file.name) and file.stat().st_mtime < time.time() - age:
                    file.unlink()
                    swept.append(file)
    return swept


def name_key(name: str) -> str:
    """A key that is equal for names which some file system takes for one: they differ in case or Unicode form only.

    Canonical caseless matching (Unicode 3.13, D145), in the composed form: an accent is no letter of its own.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def disk_remedy(error: BaseException) -> str:
    """What to do about a folder that could not be written, by what the system or SQLite says."""
    number, text = getattr(error, "errno", None), str(error)
    if number in _FULL or "is full" in text:
        return "make room there"
    if number in _DENIED or "readonly" in text or "unable to open" in text:
        return "make this folder and the files in it writable; a restart is not needed"
    return "check the disk and the folder's permissions"


def replace_files(contents: Mapping[Path, bytes], *, durable: bool = True) -> None:
    """Write all files under temporary names, then move them into place in the given order, the important one last.

    Files that are not `durable` may be lost in a power cut; of the others the folder is flushed to the disk too.

    Raises OSError. Then no temporary file is left, files that were not there before are not there now, and a file whose
    turn to be replaced had not come is as it was.
    """
    temporary = {path: temporary_name(path) for path in contents}
    created: list[Path] = []
    try:
        for path, data in contents.items():
            (_write if durable else _write_unsynced)(temporary[path], data)
        for path in contents:
            is_new = not path.exists()
            os.replace(temporary[path], path)
            if is_new:
                created.append(path)
        if durable:
            for folder in {path.parent for path in contents}:
                _flush_folder(folder)
    except BaseException:
        _remove(created)
        raise
    finally:
        _remove(temporary.values())


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def png_bytes(picture: Image.Image, *, compress_level: int = 6) -> bytes:
    """The picture as a PNG file. `compress_level` is zlib's, 0 to 9; 6 is what Pillow takes by default."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=compress_level)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Create a file and flush it to the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can: Windows opens no folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_unsynced(path: Path, data: bytes) -> None:
    """Create a file without waiting for the disk."""
    with path.open("xb") as file:
        file.write(data)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
