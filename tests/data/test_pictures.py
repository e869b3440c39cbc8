"""Pictures of every kind people have are read; what cannot be read is refused in words they understand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import load_pair
from lib_addift.data.pictures import load_picture
from lib_addift.errors import PictureError, printable
from tests.support.pictures import changed, pair_of, scene


def png_header(width: int, height: int, depth: int = 8, colours: int = 2) -> bytes:
    """A PNG that claims a size and holds no pixels: whoever decodes it fails in another way."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# Bad files


def _saved(name: str, cut: float = 1.0, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        Image.fromarray(scene()).save(path, **options)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * cut)])
        return path

    return write


def _bytes(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda folder: folder / "none.png", "does not exist"),
    "missing, as text": (lambda folder: str(folder / "none.png"), "does not exist"),
    "null byte": (lambda folder: str(folder / "a\0b.png"), "does not exist"),
    "folder": (lambda folder: folder, "is a folder"),
    "empty": (_bytes("a.png", b""), "0 bytes"),
    "text": (_bytes("a.png", b"not a picture at all"), "not a picture that can be read"),
    "truncated png": (_saved("a.png", cut=0.5), "cannot be read"),
    "truncated jpeg": (_saved("a.jpg", cut=0.5), "cannot be read"),
    "truncated header": (_saved("a.png", cut=0.001), "not a picture"),
    "side of 63": (lambda folder: _small(folder, (63, 200)), "63 x 200 px: each side needs at least 64"),
    "one pixel": (lambda folder: _small(folder, (1, 1)), "1 x 1 px"),
    "20000 px": (_bytes("a.png", png_header(20_000, 20_000)), "at most 16384 px a side and 100 megapixels"),
    "long side": (_bytes("a.png", png_header(16_385, 64)), "16385 x 64 px: use at most"),
    "over 100 megapixels": (_bytes("a.png", png_header(10_001, 10_000)), "10001 x 10000 px: use at most"),
    "no pixels": (_bytes("a.png", png_header(64, 64)), "cannot be read"),
}


def _small(folder: Path, size: tuple[int, int]) -> Path:
    Image.new("RGB", size).save(folder / "small.bmp")
    return folder / "small.bmp"


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    make, reason = BAD_FILES[case]
    source = make(tmp_path)
    with pytest.raises(PictureError) as caught:
        load_picture(source, "target")
    message = str(caught.value)
    assert message.startswith(f"the target '{printable(str(source))}' ")
    assert reason in message
    assert message.endswith(".")
    assert ":" in message
    assert "\n" not in message


BAD_VALUES: dict[str, tuple[Any, str]] = {
    "none": (None, "missing"),
    "empty text": ("", "missing"),
    "no pixels": (np.zeros((0, 0, 3), np.uint8), "0 x 0 px"),
    "no rows": (np.zeros((0, 64, 3), np.uint8), "64 x 0 px"),
    "one pixel": (np.zeros((1, 1, 3), np.uint8), "1 x 1 px"),
    "side of 63": (np.zeros((64, 63, 3), np.uint8), "63 x 64 px"),
    "too long": (np.zeros((64, 16_385), np.uint8), "at most 16384 px"),
    "two channels": (np.zeros((64, 64, 2), np.uint8), "shape"),
    "a batch": (np.zeros((1, 64, 64, 3), np.uint8), "shape"),
    "a row": (np.zeros(64, np.uint8), "shape"),
    "uint16": (np.zeros((64, 64), np.uint16), "uint8, or float in 0..1"),
    "bool": (np.zeros((64, 64), bool), "uint8, or float in 0..1"),
    "float to 255": (np.full((64, 64), 255.0), "0..1"),
    "negative": (np.full((64, 64), -0.5), "0..1"),
    "not a number": (np.full((64, 64), np.nan), "0..1"),
    "picture without pixels": (Image.new("RGB", (0, 0)), "0 x 0 px"),
    "picture of one pixel": (Image.new("RGB", (1, 1)), "1 x 1 px"),
    "picture with nan": (Image.fromarray(np.full((64, 64), np.nan, np.float32)), "not finite"),
    "picture with infinity": (Image.fromarray(np.full((64, 64), np.inf, np.float32)), "not finite"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_value_is_refused(case: str) -> None:
    source, reason = BAD_VALUES[case]
    with pytest.raises(PictureError, match=r"^the original .*:") as caught:
        load_picture(source, "original")
    assert reason in str(caught.value)


def test_a_truncated_picture_in_memory_is_refused(tmp_path: Path) -> None:
    path = _saved("half.png", cut=0.5)(tmp_path)
    with Image.open(path) as opened, pytest.raises(PictureError, match="the original cannot be read"):
        load_picture(opened, "original")


def test_pillow_does_not_warn_of_what_is_within_the_limits(tmp_path: Path) -> None:
    header = png_header(9_600, 9_600, depth=1, colours=0)  # 92 megapixels; Pillow warns of more than 89
    (tmp_path / "a.png").write_bytes(header)
    with pytest.raises(PictureError, match="cannot be read"):  # it got past the sizes, to the pixels that are not there
        load_picture(tmp_path / "a.png", "original")


# Odd but good pictures


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "a.WebP", "a.JPG", "a.Jpeg", "a.BMP", "a.tif", "no_extension"])
def test_formats_and_extensions(name: str, tmp_path: Path) -> None:
    options = {"quality": 95} if name.lower().endswith(("jpg", "jpeg", "webp")) else {}
    Image.fromarray(scene()).save(tmp_path / name, "PNG" if "." not in name else None, **options)
    picture = load_picture(tmp_path / name, "original")
    assert picture.mode == "RGB"
    assert np.abs(np.asarray(picture, dtype=int) - scene()).mean() < 3


@pytest.mark.parametrize("alpha", [None, 100])
def test_a_picture_that_was_loaded_is_not_converted_again(alpha: int | None, tmp_path: Path) -> None:
    picture = Image.fromarray(scene())
    if alpha is not None:
        picture.putalpha(alpha)
    picture.save(tmp_path / "a.png")
    loaded = load_picture(tmp_path / "a.png", "original")
    assert load_picture(loaded, "target") is loaded
    with Image.open(tmp_path / "a.png") as opened:
        assert load_picture(opened, "original") is not opened, "it is closed with its file"
    loaded.info["transparency"] = (0, 0, 0)
    assert load_picture(loaded, "original") is not loaded


def test_a_picture_that_shares_an_arrays_memory_is_copied() -> None:
    pixels = np.full((64, 64, 4), 100, np.uint8)
    picture = load_picture(pixels, "original")
    pixels[:] = 0
    assert np.asarray(picture).min() == 100


def test_arrays_files_and_pictures_give_the_same(tmp_path: Path) -> None:
    pixels = scene()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    exact = pixels / 255
    opaque = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, exact, opaque):
        picture = load_picture(source, "original")
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), pixels)
    np.testing.assert_array_equal(np.asarray(load_picture(exact.astype(np.float16), "original")), pixels)
    np.testing.assert_array_equal(np.asarray(load_picture(pixels[..., 0], "original"))[..., 1], pixels[..., 0])


RAMP = np.tile(np.arange(256, dtype=np.int64), (64, 1))


@pytest.mark.parametrize(
    "deep",
    [
        (RAMP * 257).astype("<u2"),  # I;16
        (RAMP * 257).astype(">u2"),  # I;16B
        (RAMP * 257).astype(np.int32),  # I with 16 bits, as Pillow before 11 opens 16-bit PNG
        RAMP.astype(np.int32),  # I with 8 bits
        (RAMP / 255).astype(np.float32),  # F in 0..1
        RAMP.astype(np.float32),  # F in 0..255
    ],
    ids=["I;16", "I;16B", "I 16-bit", "I 8-bit", "F 0..1", "F 0..255"],
)
def test_deep_grey_is_scaled_not_clipped(deep: np.ndarray) -> None:
    result = np.asarray(load_picture(Image.fromarray(deep), "original"))
    np.testing.assert_array_equal(result, np.repeat(RAMP[..., None], 3, axis=2))


def test_deep_grey_files(tmp_path: Path) -> None:
    for name in ("a.png", "a.tiff"):
        Image.fromarray((RAMP * 257).astype(np.uint16)).save(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(load_picture(tmp_path / name, "original"))[..., 0], RAMP)


def test_negative_depth_is_black() -> None:
    deep = np.full((64, 64), -100.0, np.float32)
    deep[:, 32:] = 200
    result = np.asarray(load_picture(Image.fromarray(deep), "original"))
    assert result[0, 0, 0] == 0
    assert result[0, 63, 0] == 200


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    Image.fromarray(scene()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    picture = load_picture(tmp_path / "a.jpg", "original")
    assert np.abs(np.asarray(picture, dtype=int) - scene()).mean() < 3


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray((RAMP > 127).astype(np.uint8) * 255).convert("1").save(tmp_path / "a.png")
    result = np.asarray(load_picture(tmp_path / "a.png", "original"))
    np.testing.assert_array_equal(result[..., 2], np.where(RAMP > 127, 255, 0))


def _half_transparent(mode: str, path: Path) -> None:
    """A black picture of 64 x 64 whose left half is transparent, in every way that PNG knows."""
    alpha = Image.fromarray(np.where(np.arange(64) < 32, 0, 255).astype(np.uint8)[None].repeat(64, 0))
    if mode in ("LA", "RGBA"):
        picture = Image.new(mode[:-1], (64, 64))
        picture.putalpha(alpha)
        picture.save(path)
    elif mode == "P":  # one transparency for each colour of the palette
        picture = alpha.point([0] * 128 + [1] * 128).convert("P")
        picture.putpalette([90, 0, 0, 0, 0, 0])
        picture.save(path, transparency=bytes([0, 255]))
    else:  # one transparent colour
        picture = alpha.point([255] * 128 + [0] * 128).convert(mode)
        picture.save(path, transparency=255 if mode == "L" else (255, 255, 255))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB"])
def test_transparency_is_kept_and_becomes_white(mode: str, tmp_path: Path) -> None:
    _half_transparent(mode, tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png", "original")
    assert picture.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(picture)[..., 3][5], np.where(np.arange(64) < 32, 0, 255))
    pair = pair_of(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    assert (pair.original[:, :32] == 255).all()
    assert (pair.original[:, 32:] == 0).all()


def test_half_transparent_pixels_mix_with_white() -> None:
    veil = np.zeros((64, 64, 4), np.uint8)
    veil[..., 3] = 102  # 40 %
    pair = pair_of(veil, np.zeros((64, 64, 3), np.uint8))
    assert (pair.original == 153).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(scene()).save(tmp_path / "a.jpg", quality=95, exif=exif)
    # What the tag says of the stored rows and columns (EXIF 2.3, 4.6.4 A)
    upright = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: a.swapaxes(0, 1)[::-1],
    }[orientation](scene())  # fmt: skip
    result = np.asarray(load_picture(tmp_path / "a.jpg", "original"), dtype=int)
    assert result.shape == upright.shape
    assert np.abs(result - upright).mean() < 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_the_first_frame_is_used(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    result = np.asarray(load_picture(tmp_path / f"a.{suffix}", "original"))
    assert (result == (255, 0, 0)).all()


def test_the_source_is_left_as_it_was() -> None:
    pixels = scene()
    picture = Image.fromarray(pixels).convert("RGBA")
    load_pair(picture, changed(pixels, 10, 10, 20), TrainConfig(resolution=64))
    assert picture.mode == "RGBA"
    assert picture.size == (96, 80)
    np.testing.assert_array_equal(np.asarray(picture)[..., :3], pixels)
