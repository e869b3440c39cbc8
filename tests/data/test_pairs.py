"""Pictures of every kind people have become pairs; what cannot is refused in words they understand."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.mask import difference_mask
from lib_addift.data.pairs import ImagePair, load_pair
from lib_addift.data.pictures import load_picture
from lib_addift.demo.world import draw, random_face
from lib_addift.errors import PictureError
from tests.support.pictures import as_jpeg, changed, scene


def mask_of(original: Any, target: Any, **settings: Any) -> np.ndarray:
    mask = pair_of(original, target, **settings).mask
    assert mask is not None
    return mask


def pair_of(original: Any, target: Any, **settings: Any) -> ImagePair:
    return load_pair(original, target, TrainConfig(**{"mask": "off", **settings}))


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
    assert message.startswith(f"the target '{source}' ")
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


# Geometry


def ramps(width: int, height: int) -> np.ndarray:
    """Red counts every second column from the middle, green every second row: their slopes show scale and place."""
    x, y = (np.arange(side) - (side - 1) / 2 for side in (width, height))
    red, green = np.broadcast_arrays(128 + x / 2, 128 + y[:, None] / 2)
    return np.stack([red, green, np.zeros_like(red)], axis=2).round().clip(0, 255).astype(np.uint8)


def slopes(picture: np.ndarray) -> tuple[float, float]:
    """Source pixels per result pixel, across and down."""
    height, width = picture.shape[:2]
    lines = picture[height // 2, 4:-4, 0], picture[4:-4, width // 2, 1]
    across, down = (2 * float(np.polyfit(np.arange(len(line)), line.astype(float), 1)[0]) for line in lines)
    return across, down


SIDES = st.integers(64, 400)


@settings(max_examples=60, deadline=None)
@given(first=st.tuples(SIDES, SIDES), second=st.tuples(SIDES, SIDES), resolution=st.integers(64, 320))
def test_any_two_sizes_make_a_pair(first: tuple[int, int], second: tuple[int, int], resolution: int) -> None:
    target = ramps(*second)
    target[..., 2] = 255
    pair = pair_of(ramps(*first), target, resolution=resolution)
    height, width, channels = pair.original.shape
    assert pair.target.shape == pair.original.shape
    assert channels == 3
    assert pair.original.dtype == pair.target.dtype == np.uint8
    assert width % 64 == height % 64 == 0
    assert 64 * 64 <= width * height <= resolution**2
    assert width <= min(first[0], second[0])
    assert height <= min(first[1], second[1])
    for picture in (pair.original, pair.target):
        across, down = slopes(picture)
        assert across == pytest.approx(down, rel=0.05)  # nothing is distorted
        assert across > 0.95
        middle = picture[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1].mean(axis=(0, 1))
        np.testing.assert_allclose(middle[:2], 128, atol=1.1)  # the middle stays in the middle
    assert bool(pair.crop) == (not (first == second == (width, height)))


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(st.integers(64, 1200), st.integers(64, 1200)))
def test_little_is_cut_off_at_usual_sizes(size: tuple[int, int]) -> None:
    """At 512 px squared and proportions up to 2 : 1, seven eighths of the picture or so remain, at a useful size."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    height, width = pair_of(pixels, pixels + 1).original.shape[:2]
    proportions = size[0] / size[1]
    kept = min(width / height / proportions, proportions / (width / height))
    if min(size) >= 448 and 0.5 <= proportions <= 2:
        assert kept > 0.87  # 0.872 at 460 x 879, the worst of 100 000 sizes
        assert width * height > 0.55 * min(512**2, size[0] * size[1])


@pytest.mark.parametrize(
    ("first", "second", "resolution", "result"),
    [
        ((64, 64), (64, 64), 64, (64, 64)),
        ((64, 64), (64, 64), 512, (64, 64)),
        ((512, 512), (512, 512), 512, (512, 512)),
        ((1024, 1024), (512, 512), 512, (512, 512)),
        ((1024, 1024), (1024, 1024), 2048, (1024, 1024)),
        ((512, 768), (512, 768), 768, (512, 768)),
        ((512, 768), (512, 768), 512, (384, 576)),  # two thirds exactly
        ((1920, 1080), (1920, 1080), 512, (640, 384)),
        ((513, 512), (512, 513), 512, (512, 512)),
        ((768, 512), (512, 768), 1024, (512, 512)),
        ((768, 512), (512, 512), 1024, (512, 512)),
        ((2000, 64), (64, 64), 512, (64, 64)),
        ((2000, 64), (2000, 64), 512, (1984, 64)),
        ((130, 130), (200, 200), 100, (64, 64)),
    ],
)
def test_sizes(first: tuple[int, int], second: tuple[int, int], resolution: int, result: tuple[int, int]) -> None:
    pair = pair_of(scene(*first), scene(*second, seed=1), resolution=resolution)
    assert pair.original.shape == pair.target.shape == (result[1], result[0], 3)


def test_a_pair_on_the_grid_is_untouched() -> None:
    original, target = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pair = pair_of(original, target)
    np.testing.assert_array_equal(pair.original, original)
    np.testing.assert_array_equal(pair.target, target)
    assert pair.crop == ""
    assert pair.mask is None
    assert pair.original.flags.writeable  # torch.from_numpy warns of anything else


def test_a_mere_cut_changes_no_pixel() -> None:
    original, target = np.random.default_rng(0).integers(0, 256, (2, 128, 197, 3), dtype=np.uint8)
    pair = pair_of(original, target)
    np.testing.assert_array_equal(pair.original, original[:, 2:194])
    np.testing.assert_array_equal(pair.target, target[:, 2:194])


def test_scaling_down_does_not_alias() -> None:
    checkers = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pair = pair_of(checkers, 255 - np.eye(512, dtype=np.uint8), resolution=64)
    assert np.ptp(pair.original[4:-4, 4:-4]) <= 2
    assert abs(float(pair.original.mean()) - 127.5) < 2


def test_two_scales_of_one_picture_coincide() -> None:
    large = scene(960, 704)
    small = np.array(Image.fromarray(changed(large, 300, 300, 100)).resize((480, 352), Image.Resampling.LANCZOS))
    pair = pair_of(large, small)
    difference = np.abs(pair.original.astype(int) - pair.target).mean(axis=2)
    assert pair.original.shape[:2] == (320, 448)
    assert difference[:, :120].max() < 6
    assert difference[150:170, 150:170].mean() > 50


def test_another_proportion_is_cut_to_the_middle_and_told() -> None:
    wide = scene(192, 128)
    pair = pair_of(wide, changed(wide[:, 32:160], 40, 40, 30))
    np.testing.assert_array_equal(pair.original, wide[:, 32:160])
    assert "different proportions (192 x 128 and 128 x 128 px)" in pair.crop
    assert "128 x 128 px." in pair.crop


def test_pictures_of_different_proportions_keep_one_scale() -> None:
    """Also when the 64 px grid is wider than what they have in common."""
    wide = scene(960, 600)
    pair = pair_of(wide, changed(wide[:, 45:915], 250, 400, 50))
    assert pair.original.shape == (384, 576, 3)
    difference = np.abs(pair.original.astype(int) - pair.target).max(axis=2)
    assert difference[:, :200].max() <= 2
    assert difference[:, 400:].max() <= 2


def test_what_happened_is_told_in_one_sentence() -> None:
    assert pair_of(scene(128, 128), scene(256, 256, 1)).crop == (
        "The pictures (128 x 128 and 256 x 256 px) were brought to 128 x 128 px."
    )
    assert pair_of(scene(128, 150), scene(128, 150, 1)).crop.endswith(
        "brought to 128 x 128 px, which cut off up to 15% at the edges."
    )
    assert "different" not in pair_of(scene(512, 512), scene(518, 512, 1)).crop
    assert "different" in pair_of(scene(512, 512), scene(530, 512, 1)).crop


def test_identical_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match=r"identical.*nothing to learn.*choose two that differ"):
        pair_of(tmp_path / "a.png", scene())


def test_messages_say_which_picture(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"the original '.*none.png' does not exist"):
        pair_of(tmp_path / "none.png", scene())
    with pytest.raises(PictureError, match=r"the target '.*none.png' does not exist"):
        pair_of(scene(), tmp_path / "none.png")


# Masks


DAMAGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda picture: picture,
    "jpeg": lambda picture: as_jpeg(picture, 75),
    "worse jpeg": lambda picture: as_jpeg(picture, 50),
    "brighter": lambda picture: (picture + 8.0).clip(0, 255).astype(np.uint8),
    "warmer": lambda picture: (picture + np.array([6.0, 0, -6])).clip(0, 255).astype(np.uint8),
    "noise": lambda picture: (
        (picture + np.random.default_rng(0).normal(0, 5, picture.shape)).clip(0, 255).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("size", [64, 256, 512])
@pytest.mark.parametrize("damage", DAMAGE)
def test_auto_mask_covers_the_change_and_nothing_else(damage: str, size: int) -> None:
    original = scene(size, size)
    top, left, side = size // 4, size // 2, size // 8
    target = DAMAGE[damage](changed(original, top, left, side))
    mask = mask_of(original, target, mask="auto")
    assert mask.dtype == np.float32
    assert mask.shape == (size, size)
    assert mask.min() == 0
    assert mask.max() == 1
    assert mask[top : top + side, left : left + side].min() > 0.99
    far = np.ones_like(mask, bool)
    margin = size // 8
    far[top - margin : top + side + margin, left - margin : left + side + margin] = False
    assert mask[far].max() == 0
    assert ((mask > 0.05) & (mask < 0.95)).sum() > side  # a soft margin


def test_auto_mask_sees_a_faint_change() -> None:
    original = scene(256, 256) // 2
    target = original.copy()
    target[100:140, 100:140] += 15
    mask = mask_of(original, target, mask="auto")
    assert mask[100:140, 100:140].min() > 0.99
    assert mask[:40].max() == 0


def test_auto_mask_sees_a_faint_change_against_a_brighter_picture() -> None:
    original = scene(256, 256) // 2 + 40
    target = original + 8
    target[100:140, 100:140] -= 15  # 7 below the original: no further from it than the rest
    mask = mask_of(original, target, mask="auto")
    assert mask[100:140, 100:140].min() > 0.99
    assert mask[:40].max() == 0


def test_auto_mask_at_the_edge_of_the_picture() -> None:
    original = scene(128, 128)
    mask = mask_of(original, changed(original, 0, 0, 20), mask="auto")
    assert mask[:20, :20].min() > 0.99
    assert mask[64:].max() == 0


@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_auto_mask_is_none_when_almost_everything_changed(share: float) -> None:
    original = scene(256, 256)
    target = original.copy()
    target[: int(256 * share)] ^= 255
    assert (pair_of(original, target, mask="auto").mask is None) == (share > 0.6)


def test_auto_mask_is_none_for_another_style() -> None:
    original = scene(256, 256)
    stripes = 25 * np.sin(np.indices((256, 256)).sum(axis=0))[..., None]
    assert pair_of(original, (original + stripes).clip(0, 255).astype(np.uint8), mask="auto").mask is None
    assert pair_of(original, (original * 0.7).astype(np.uint8), mask="auto").mask is None


def test_auto_mask_is_none_when_only_noise_differs() -> None:
    original = scene(256, 256)
    noise = np.random.default_rng(0).integers(-2, 3, original.shape)
    assert difference_mask(original, (original + noise).clip(0, 255).astype(np.uint8)) is None


def test_auto_mask_does_not_depend_on_the_order() -> None:
    original = scene(128, 128)
    target = changed(original, 30, 30, 20)
    np.testing.assert_array_equal(difference_mask(original, target), difference_mask(target, original))


@pytest.mark.parametrize("seed", range(20))
def test_auto_mask_finds_the_eyes_of_a_demo_face(seed: int) -> None:
    face = random_face(random.Random(seed), eyes="open")
    pair = pair_of(draw(face), draw(replace(face, eyes="closed")), mask="auto")
    assert pair.mask is not None
    centre = 24 if face.position == "left" else 40
    for side in (-7, 7):  # as world.draw places them, give or take its pixel of variation
        assert pair.mask[30:37, centre + side - 4 : centre + side + 5].min() > 0.8
    for corner in (pair.mask[:12, :12], pair.mask[:12, -12:], pair.mask[-12:, :12], pair.mask[-12:, -12:]):
        assert corner.max() < 0.2
    assert pair.mask[50:].max() < 0.2  # the mouth
    assert pair.mask.mean() < 0.3


def with_alpha(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([picture, alpha[..., None].astype(np.uint8)], axis=2)


def test_alpha_mask_prefers_the_target() -> None:
    left, top = np.zeros((2, 64, 64))
    left[:, :32], top[:32] = 255, 128
    original, target = scene(64, 64), scene(64, 64, 1)
    both = mask_of(with_alpha(original, left), with_alpha(target, top), mask="alpha")
    np.testing.assert_allclose(both, top / 255)
    assert both.dtype == np.float32
    np.testing.assert_allclose(mask_of(with_alpha(original, left), target, mask="alpha"), left / 255)


def test_alpha_mask_takes_the_way_of_its_picture() -> None:
    """Cut and scaled with the target: the seen square lies where the painted square lies."""
    original, target = scene(384, 256), scene(192, 128) // 2 + 100
    target[40:80, 60:100] = 0
    alpha = np.zeros((128, 192))
    alpha[40:80, 60:100] = 255
    pair = pair_of(original, with_alpha(target, alpha), mask="alpha", resolution=128)
    assert pair.mask is not None
    assert pair.mask.shape == pair.target.shape[:2]
    dark = pair.target.max(axis=2) < 5
    assert dark.sum() > 100
    assert pair.mask[dark].min() > 0.9
    assert pair.mask[~dark].mean() < 0.1


def test_alpha_mask_needs_transparency() -> None:
    opaque = with_alpha(scene(64, 64), np.full((64, 64), 255))
    with pytest.raises(PictureError, match=r"mask = alpha needs transparency .*: .*mask = auto"):
        pair_of(opaque, scene(64, 64, 1), mask="alpha")


def test_black_masks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"\(mask = alpha\) is all black: make"):
        pair_of(scene(64, 64), with_alpha(scene(64, 64), np.zeros((64, 64))), mask="alpha")
    Image.new("L", (64, 64)).save(tmp_path / "mask.png")
    with pytest.raises(PictureError, match=r"is all black: make"):
        pair_of(scene(64, 64), scene(64, 64, 1), mask="file", mask_file=str(tmp_path / "mask.png"))


def test_mask_file_keeps_its_greys(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "mask.png")
    mask = mask_of(scene(64, 64), scene(64, 64, 1), mask="file", mask_file=str(tmp_path / "mask.png"))
    np.testing.assert_allclose(mask, ramp / 255, atol=1e-6)


def test_mask_file_painted_on_nothing(tmp_path: Path) -> None:
    painted = np.full((64, 64, 4), 255, np.uint8)
    painted[:, :32, 3] = 0
    Image.fromarray(painted).save(tmp_path / "mask.png")
    mask = mask_of(scene(64, 64), scene(64, 64, 1), mask="file", mask_file=str(tmp_path / "mask.png"))
    assert mask[:, :32].max() == 0
    assert mask[:, 32:].min() == 1


@pytest.mark.parametrize("scale", [1, 2, 0.5])
def test_mask_file_takes_the_way_of_the_pictures(scale: float, tmp_path: Path) -> None:
    original = scene(320, 200) // 2 + 100
    target = original.copy()
    target[60:100, 200:260] = 0
    mask = Image.fromarray((np.where(target.max(axis=2) == 0, 255, 0)).astype(np.uint8))
    mask.resize((int(320 * scale), int(200 * scale)), Image.Resampling.BOX).save(tmp_path / "mask.png")
    pair = pair_of(original, target, mask="file", mask_file=str(tmp_path / "mask.png"), resolution=192)
    dark = pair.target.max(axis=2) < 5
    assert pair.mask is not None
    assert dark.sum() > 100
    assert pair.mask[dark].min() > 0.8
    assert pair.mask[~dark].mean() < 0.05


@pytest.mark.parametrize(
    ("size", "reason"),
    [((64, 128), "which fits neither picture"), ((32, 32), "at least 64"), (None, "does not exist")],
)
def test_bad_mask_files_are_refused(size: tuple[int, int] | None, reason: str, tmp_path: Path) -> None:
    if size:
        Image.new("L", size, 255).save(tmp_path / "mask.png")
    with pytest.raises(PictureError, match=f"the mask '.*mask.png' .*{reason}.*"):
        pair_of(scene(), scene(seed=1), mask="file", mask_file=str(tmp_path / "mask.png"))
