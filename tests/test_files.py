"""Hashes and PNG files."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_addift import files


def test_a_file_larger_than_a_chunk_is_hashed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK", 1000)
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(256)) * 11)
    assert files.sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(OSError, match="nowhere"):
        files.sha256_of(tmp_path / "nowhere")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_png_holds_the_picture_and_is_what_pillow_writes_by_default(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    default = io.BytesIO()
    picture.save(default, "PNG")
    assert files.png_bytes(picture) == default.getvalue()
    for level in (1, 6):
        with Image.open(io.BytesIO(files.png_bytes(picture, compress_level=level))) as read:
            assert read.mode == mode
            assert read.tobytes() == picture.tobytes()


def test_a_replaced_file_and_its_folder_are_flushed_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder comes last: it holds the names. Where a system opens no folder, the files are written all the same."""
    flushed: list[str] = []

    def fsync(descriptor: int) -> None:
        flushed.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", fsync)
    contents = {tmp_path / "a.json": b"1", tmp_path / "a.safetensors": b"2"}
    files.replace_files(contents)
    assert flushed == (["file"] * 2 if os.name == "nt" else ["file", "file", "folder"])
    flushed.clear()
    files.replace_files(contents, durable=False)
    assert flushed == []

    def no_folders(path: Path, _flags: int) -> int:
        raise PermissionError(path)

    monkeypatch.setattr(os, "open", no_folders)
    files.replace_files({tmp_path / "b": b"3"})
    assert (tmp_path / "b").read_bytes() == b"3"
