"""Measures against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lib_addift.experiments.lab import metrics


def test_share_and_flips_count_faces() -> None:
    assert metrics.share([True, False, True, True]) == 0.75
    assert math.isnan(metrics.share([]))
    before = [{"eyes": "open", "hair": "red"}, {"eyes": "open", "hair": "red"}]
    after = [{"eyes": "closed", "hair": "red"}, {"eyes": "open", "hair": "black"}]
    assert metrics.flips(before, after, ["hair"]) == 0.5
    assert metrics.flips(before, after, ["hair", "eyes"]) == 1.0
    assert metrics.flips(before, after, []) == 0.0


def test_interference_is_the_mean_change_outside_of_the_area() -> None:
    before = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    after = before.copy()
    after[:, 0, 0] = 255  # inside
    after[0, 3, 3] = [100, 70, 100]  # outside: 30 grey levels in one channel of one pixel
    areas = np.zeros((2, 4, 4), dtype=bool)
    areas[:, :2, :2] = True
    assert metrics.interference(before, after, areas) == pytest.approx(30 / 3 / (2 * 12))
    assert math.isnan(metrics.interference(before, after, np.ones_like(areas)))


def test_effects_are_0_for_the_original_and_1_for_the_target() -> None:
    levels = np.array([[2.0, -10.0], [6.0, -20.0], [4.0, -25.0]])
    assert metrics.effects(levels, levels[0], levels[1]).tolist() == [[0, 0], [1, 1], [0.5, 1.5]]


def test_monotony_counts_falls_and_forgives_small_ones() -> None:
    assert metrics.monotony(np.array([[0.0], [0.5], [1.0]])) == 1.0
    assert metrics.monotony(np.array([[0.0], [0.5], [0.46]])) == 1.0
    assert metrics.monotony(np.array([[0.0, 0.0], [0.5, 0.5], [0.4, 0.6]])) == 0.75


def test_linearity_is_r_squared() -> None:
    weights = [-1.0, 0.0, 1.0, 2.0]
    assert metrics.linearity(weights, [3.0, 5.0, 7.0, 9.0]) == pytest.approx(1)
    assert metrics.linearity(weights, [0.0, 1.0, 1.0, 1.0]) == pytest.approx(
        np.corrcoef(weights, [0, 1, 1, 1])[0, 1] ** 2
    )
    assert math.isnan(metrics.linearity(weights, [1.0, 1.0, 1.0, 1.0]))


@pytest.fixture
def bar() -> tuple[np.ndarray, np.ndarray]:
    """A dark bar on light ground, (64, 64, 3), and where it is."""
    mark = np.zeros((64, 64), dtype=bool)
    mark[20:40, 28:33] = True
    picture = np.full((64, 64, 3), 200.0)
    picture[mark] = [40, 80, 120]
    return picture, mark


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0, -0.5])
def test_contrast_and_sharpness_tell_how_pale_it_is(bar: tuple[np.ndarray, np.ndarray], strength: float) -> None:
    target, mark = bar
    picture = 200 + strength * (target - 200)
    assert metrics.contrast(picture, target, mark) == pytest.approx(strength)
    assert metrics.sharpness(picture, target, mark) == pytest.approx(strength)


def test_a_blur_takes_more_of_the_sharpness_than_of_the_contrast(bar: tuple[np.ndarray, np.ndarray]) -> None:
    target, mark = bar
    soft = np.asarray(Image.fromarray(target.astype(np.uint8)).filter(ImageFilter.BoxBlur(1)))
    # A mean over 3 px makes of the step between two neighbours a third; at the corners less.
    assert metrics.sharpness(soft, target, mark) == pytest.approx(1 / 3, abs=0.02)
    assert 0.75 < metrics.contrast(soft, target, mark) < 0.95


def test_another_colour_counts_only_along_the_targets_own(bar: tuple[np.ndarray, np.ndarray]) -> None:
    target, mark = bar
    picture = np.full_like(target, 200)
    picture[mark] += [12, -16, 0]  # at right angles to 160, 120, 80: 12 * 160 = 16 * 120
    assert metrics.contrast(picture, target, mark) == pytest.approx(0)
    assert metrics.sharpness(picture, target, mark) == pytest.approx(0)


def test_a_shift_of_a_pixel_is_undone_before_edges_are_measured(bar: tuple[np.ndarray, np.ndarray]) -> None:
    target, mark = bar
    moved = np.roll(target, (1, -1), axis=(0, 1))
    assert metrics.sharpness(moved, target, mark) < 0.2
    assert metrics.sharpness(metrics.aligned(moved, target, mark), target, mark) == pytest.approx(1)
    far = np.roll(target, 3, axis=1)
    assert metrics.sharpness(metrics.aligned(far, target, mark), target, mark) < 0.7


def test_grown_adds_a_margin() -> None:
    area = np.zeros((7, 9), dtype=bool)
    area[3, 4] = area[0, 8] = True
    grown = metrics.dilated(area, 2)
    assert grown.sum() == 25 + 9 - 2  # the corner's square is cut by the border, and the two share two pixels
    assert grown[1:6, 2:7].all()


def test_both_counts_faces_that_show_both() -> None:
    assert metrics.both([True, True, False, False], [True, False, True, False]) == 0.25


@pytest.mark.parametrize("first", range(1, 9))
def test_first_reached_finds_the_first_in_few_looks(first: int) -> None:
    looked: list[int] = []

    def is_enough(step: int) -> bool:
        looked.append(step)
        return step >= 10 * first

    assert metrics.first_reached([10 * n for n in range(1, 9)], is_enough) == 10 * first
    assert len(looked) <= 3
    assert 80 not in looked, "that it is enough there is known"
