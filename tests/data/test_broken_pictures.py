"""Files that were damaged at random, and files made to do harm, are refused in one sentence; nothing else escapes."""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_addift.data.pictures import load_picture, picture_size
from lib_addift.errors import PictureError
from tests.support.pictures import scene

ROOT = Path(__file__).parents[2]
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MUTANTS = 150  # of each format


def file_of(kind: str) -> bytes:
    stream = io.BytesIO()
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    Image.fromarray(scene()).save(stream, kind, **options)
    return stream.getvalue()


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Flipped bits, mostly in the header; a part cut out; or four bytes that hold an absurd number."""
    data, way = bytearray(content), rng.randrange(4)
    if way == 0:
        return bytes(data[: rng.randrange(1, len(data))])
    reach = 64 if way < 3 else len(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(min(reach, len(data) - 4))
        if way == 2:
            data[place : place + 4] = rng.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]
            )
        else:
            data[place] ^= 1 << rng.randrange(8)
    return bytes(data)


def is_handled(content: bytes) -> bool:
    """Whether the contents of a file are read, or refused in one sentence. What else is raised, this raises."""
    for read in (lambda: load_picture(content, "target"), lambda: picture_size(content, "target")):
        try:
            read()
        except PictureError as error:
            text = str(error)
            if not text.startswith("the target ") or ":" not in text or "\n" in text or not text.endswith("."):
                return False
    return True


@pytest.mark.filterwarnings("ignore")  # Pillow's, where only the header is read
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_refused_in_one_sentence(kind: str) -> None:
    content, rng = file_of(kind), random.Random(kind)
    assert all(is_handled(mutated(content, rng)) for _ in range(MUTANTS))


def png(width: int, height: int, depth: int, colours: int, pixels: bytes, *more: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", pixels), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


BOMBS = {
    "absurd size": png(2**31 - 1, 2**31 - 1, 8, 2, b""),
    "size of nothing": png(0, 0, 8, 2, b""),
    "bits that do not exist": png(64, 64, 33, 2, b""),
    "colours that do not exist": png(64, 64, 8, 77, b""),
    "text that grows": png(64, 64, 8, 2, b"", (b"zTXt", b"a\0\0" + zlib.compress(b"a" * 70 * 2**20))),
    "profile that grows": png(64, 64, 8, 2, b"", (b"iCCP", b"a\0\0" + zlib.compress(b"a" * 70 * 2**20))),
    "bmp, offset": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 2**31, 40, 64, 64, 1, 24, 0, 0, 0, 0, 0, 0),
    "bmp, negative": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -64, 64, 1, 24, 0, 0, 0, 0, 0, 0),
    "tiff, offset": b"II*\0\xff\xff\xff\xff",
    "tiff, loop": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "gif, no frame": b"GIF89a\x40\0\x40\0\0\0\0;",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOMBS)
def test_files_made_to_do_harm_are_refused(name: str) -> None:
    with pytest.raises(PictureError, match=r"^the mask .*: .*\.$"):
        load_picture(BOMBS[name], "mask")


@pytest.mark.parametrize(
    "error", [OverflowError, AttributeError, SyntaxError, struct.error, ZeroDivisionError, MemoryError]
)
def test_whatever_a_reader_raises_is_a_sentence(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_values: object, **_options: object) -> None:
        raise error("two\nlines")

    monkeypatch.setattr(Image, "open", fail)
    for read in (load_picture, picture_size):
        with pytest.raises(PictureError, match=r"the target cannot be read \(two lines\): save it again"):
            read(b"any", "target")


@pytest.mark.parametrize("name", ["face.png", "face.eps", "face.pdf"])
def test_no_file_starts_another_program(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(scene()).save(tmp_path / name, "PDF" if name.endswith("pdf") else "EPS")

    def run(*_values: object, **_options: object) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr("subprocess.Popen.__init__", run)
    with pytest.raises(PictureError, match="is not a picture that can be read"):
        load_picture(tmp_path / name, "original")
    if not name.endswith("pdf"):
        with Image.open(tmp_path / name) as opened, pytest.raises(PictureError, match="EPS"):
            load_picture(opened, "original")


def test_pictures_are_opened_in_one_place() -> None:
    calls = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for folder in ("lib_addift", "scripts")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line in file.read_text("utf-8").splitlines()
        if re.search(r"\bImage\.open\(|\bImageFile\.Parser\b|import open\b", line)
    ]
    assert calls == [
        "lib_addift/data/pictures.py: return Image.open(file, formats=[each for each in FORMATS if each in Image.OPEN])"
    ]


def test_the_header_tells_the_size_of_the_upright_picture(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            file = tmp_path / f"{orientation}.{kind}"
            Image.fromarray(scene(96, 80)).save(file, kind, exif=exif)
            assert picture_size(file, "original") == load_picture(file, "original").size


def test_the_header_alone_is_read(tmp_path: Path) -> None:
    content = file_of("PNG")
    assert picture_size(content[: len(content) // 3], "original") == (96, 80)
    with pytest.raises(PictureError, match="cannot be read"):
        load_picture(content[: len(content) // 3], "original")
    assert np.asarray(load_picture(content, "original")).shape == (80, 96, 3)
