"""Two pictures become a pair of one size, with the mask that was chosen; what cannot is refused in plain words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib_addift.errors import PictureError
from tests.support.pictures import changed, mask_of, pair_of, scene

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
