"""Writing files atomically, hashing them, and encoding pictures as PNG."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

_CHUNK = 1 << 22  # bytes read at once: checkpoints do not fit into memory twice


DATA = Path(__file__).resolve().parents[1] / "data"  # the stores of jobs, which outlive the program


def temporary_name(path: Path) -> Path:
    """A free name beside `path`, no shorter than NAME.safetensors, with an ending that WebUIs do not list."""
    return path.with_name(f"{path.stem}.{secrets.token_hex(4)}.tmp")


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
