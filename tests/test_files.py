"""Hashes and PNG files."""

from __future__ import annotations

import hashlib
import io
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
