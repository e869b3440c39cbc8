"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A free name beside `path`, no shorter than NAME.safetensors and of no kind that a WebUI lists."""
    return path.with_name(f"{path.stem}.{secrets.token_hex(4)}.tmp")


def replace_files(contents: Mapping[Path, bytes], *, durable: bool = True) -> None:
    """Write all files under temporary names, then move them into place in the given order, the important one last.

    A file that is not `durable` need not outlive a power cut.

    Raises OSError. Then no temporary file is left, files that were not there before are not there now, and a file whose
    turn to be replaced had not come is as it was.
    """
    temporary = {path: temporary_name(path) for path in contents}
    created: list[Path] = []
    try:
        for path, data in contents.items():
            (_write if durable else _hand_over)(temporary[path], data)
        for path in contents:
            is_new = not path.exists()
            os.replace(temporary[path], path)
            if is_new:
                created.append(path)
    except BaseException:
        _remove(created)
        raise
    finally:
        _remove(temporary.values())


def _write(path: Path, data: bytes) -> None:
    """Create a file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _hand_over(path: Path, data: bytes) -> None:
    """Create a file and leave it to the system when the disk gets it."""
    with path.open("xb") as file:
        file.write(data)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
