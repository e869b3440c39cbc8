"""Hashes, PNG files, names, temporary files, and what is said of a disk that refuses."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import subprocess
import sys
import time
import unicodedata
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


def test_only_our_own_old_temporary_files_are_swept(tmp_path: Path) -> None:
    ours = [files.temporary_name(tmp_path / f"{name}.safetensors") for name in ("blink", "a.b", "x.tmp")]
    young = files.temporary_name(tmp_path / "blink.safetensors")
    others = [
        "blink.safetensors", "blink.tmp", "blink.0123abcd.tmp", "addift.tmp", ".0123abcd.addift.tmp", "x.addift.tmp",
        "blink.0123abcg.addift.tmp", "blink.0123ABCD.addift.tmp", "blink.0123abcd.addift.tmp.bak",
        "blink.0123abcd0.addift",
    ]  # fmt: skip
    folder = tmp_path / "folder.0123abcd.addift.tmp"
    folder.mkdir()
    for path in (*ours, young, *(tmp_path / name for name in others)):
        path.touch()
    for path in (*ours, *(tmp_path / name for name in others), folder):
        os.utime(path, (0, 0))
    assert files.sweep_temporary(tmp_path) == sorted(ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, young.name, folder.name])
    assert files.sweep_temporary(tmp_path / "nowhere") == []


KILLED = """
import os, signal, sys
from pathlib import Path
from lib_addift import files
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.replace_files({Path(sys.argv[1]) / "blink.safetensors": b"x" * 1000})
"""


@pytest.mark.skipif(os.name == "nt", reason="has no signals")
def test_what_a_killed_program_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[1], check=False)
    (left,) = tmp_path.iterdir()
    assert files.sweep_temporary(tmp_path) == []
    os.utime(left, (time.time() - 3600,) * 2)
    assert files.sweep_temporary(tmp_path) == [left]


def test_names_that_a_file_system_takes_for_one_have_one_key() -> None:
    """Every letter in all its cases and Unicode forms, as the standard's canonical caseless matching has it."""
    for code in range(0x20, 0x1E000):
        letter = chr(code)
        forms = [unicodedata.normalize(form, f"x{letter}y") for form in ("NFC", "NFD")]
        assert len({files.name_key(form) for form in forms}) == 1, hex(code)
        assert files.name_key(letter.lower()) == files.name_key(letter) or letter == "İ", hex(code)
    pairs = [("Eyes", "eyes"), ("Été", "E\u0301TE\u0301")]
    pairs += [("Straße", "STRASSE"), ("é", "E\u0301"), ("Å", "\u212b"), ("ﬁ", "FI"), ("\u1fb3", "\u0391\u0399")]
    for one, other in pairs:
        assert files.name_key(one) == files.name_key(other), (one, other)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room there"),
        (PermissionError(errno.EACCES, "Permission denied"), "writable"),
        (OSError(errno.EROFS, "Read-only file system"), "writable"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "writable"),
        (OSError(errno.EIO, "Input/output error"), "check the disk"),
    ],
)
def test_the_advice_fits_what_the_disk_says(error: OSError, words: str) -> None:
    assert words in files.disk_remedy(error)
    assert ("make room" in files.disk_remedy(error)) == (error.errno == errno.ENOSPC)
