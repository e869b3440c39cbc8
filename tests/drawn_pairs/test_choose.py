"""Which pairs are good, and which differ most."""

from __future__ import annotations

import numpy as np
import pytest

from lib_addift.drawn_pairs.choose import good_pairs, measure, most_different_first
from lib_addift.drawn_pairs.decode import as_drawn
from lib_addift.drawn_pairs.pair import DrawnPair
from tests.support.pictures import changed, scene


def drawn(original: np.ndarray, target: np.ndarray, seed: int = 0) -> DrawnPair:
    return as_drawn(original, target, ("", ""), seed)


def test_a_square_is_large_and_concentrated_and_noise_is_neither() -> None:
    picture = np.full((128, 128, 3), 100, np.uint8)
    square = picture.copy()
    square[32:64, 32:64] = 202  # a sixteenth of the picture, 102 of 255 brighter
    change = measure(picture, square)
    assert change.size == pytest.approx(0.4, abs=0.01)
    assert change.concentration == pytest.approx(1.0)
    whole = measure(picture, picture + 1)
    assert whole.size == pytest.approx(1 / 255, rel=0.01)
    assert whole.concentration == pytest.approx(0.25)
    assert measure(picture, picture) == measure(square, square)


def test_pairs_without_the_change_or_with_it_everywhere_are_not_good() -> None:
    good = [drawn(scene(128, 128, n), changed(scene(128, 128, n), 32, 32, 24), n) for n in range(4)]
    same = [drawn(scene(128, 128, n), scene(128, 128, n), n) for n in range(4, 9)]
    whole = drawn(scene(128, 128, 1), scene(128, 128, 2), 9)
    assert [pair.seed for pair in good_pairs([*same, *good, whole])] == [0, 1, 2, 3]
    assert good_pairs(same) == []
    assert good_pairs([]) == []


def test_a_faint_change_is_good_beside_strong_ones() -> None:
    """A mouth in a dark face changes a quarter as many grey levels as in a light one."""
    dark, light = np.full((64, 64, 3), 60, np.uint8), np.full((64, 64, 3), 200, np.uint8)
    pairs = []
    for number, (picture, depth) in enumerate([(light, 80), (dark, 20), (light, 80), (dark, 20)]):
        target = picture.copy()
        target[40:56, 16:40] -= np.uint8(depth)
        pairs.append(drawn(picture, target, number))
    assert len(good_pairs(pairs)) == 4


def test_the_most_different_pictures_come_first() -> None:
    shades = [100, 101, 250, 102, 0]
    pairs = [drawn(np.full((64, 64, 3), shade, np.uint8), scene(64, 64), shade) for shade in shades]
    assert [pair.seed for pair in most_different_first(pairs)] == [100, 250, 0, 102, 101]
    assert most_different_first([]) == []
