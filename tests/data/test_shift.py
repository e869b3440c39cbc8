"""A shift of the whole picture is measured and undone; the change to be learnt is not taken for one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import load_pair
from lib_addift.data.shift import Shift, find_shift, move_back
from lib_addift.errors import PictureError
from lib_addift.experiments.lab.faces import TASKS
from tests.support.pictures import as_jpeg, changed, scene

CHANGES = ("eyes", "mouth", "hair", "skin", "background", "style")
SEEDS = range(1, 11)
ONE_PIXEL = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (1.0, 1.0)]
A_HALF = [(0.5, 0.0), (0.0, -0.5), (0.5, 0.5)]


def pairs(name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    task = TASKS[name]
    for seed in SEEDS:
        (subject,) = task.training_subjects(seed, 1)
        original, target = (np.asarray(task.paint(subject, shown=shown)) for shown in (False, True))
        yield original, target


def moved(picture: np.ndarray, shift: Shift) -> np.ndarray:
    return move_back(picture, (-shift[0], -shift[1]))


@pytest.mark.parametrize("quality", [None, 75])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_no_shift(name: str, quality: int | None) -> None:
    for pair in pairs(name):
        original, target = (as_jpeg(picture, quality) if quality else picture for picture in pair)
        assert find_shift(original, target) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("quality", [None, 75])
@pytest.mark.parametrize(("shifts", "share"), [(ONE_PIXEL, 0.95), (A_HALF, 0.9)], ids=["1 px", "0.5 px"])
def test_a_small_shift_is_found_beneath_a_change(shifts: list[Shift], share: float, quality: int | None) -> None:
    rng, found, right = random.Random(1), [], []
    for name in CHANGES:
        for original, target in pairs(name):
            shift = rng.choice(shifts)
            second = moved(target, shift)
            measured = find_shift(*(as_jpeg(each, quality) if quality else each for each in (original, second)))
            found.append(any(measured))
            right.append(np.abs(np.subtract(measured, shift)).max() <= 0.25)
    assert np.mean(found) >= share
    assert np.mean(right) >= share - 0.05


@pytest.mark.parametrize("shift", [(1.0, 0.0), (0.0, -0.5), (0.75, -1.25), (-9.0, 7.5), (20.0, -11.0)])
def test_what_is_measured_is_undone(shift: Shift) -> None:
    coarse = np.random.default_rng(2).integers(0, 256, (52, 60, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((300, 260), Image.Resampling.BICUBIC))
    original, target = smooth[32:224, 32:288], moved(smooth, shift)[32:224, 32:288]
    assert find_shift(original, target) == shift
    aligned = load_pair(original, changed(target, 60, 60, 40), TrainConfig(align=True))
    assert aligned.aligned == shift
    assert find_shift(aligned.original, aligned.target) == (0, 0)
    difference = np.abs(aligned.original.astype(int) - aligned.target).mean(axis=2)
    assert (difference > 8).mean() < 1.3 * 40**2 / difference.size, "only the square is left to learn"


def test_whole_pixels_are_moved_without_a_change_and_the_edge_is_the_originals() -> None:
    original, target = scene(128, 128), changed(scene(128, 128, seed=0), 40, 40, 30)
    pair = load_pair(original, moved(target, (3, -2)), TrainConfig(align=True))
    np.testing.assert_array_equal(pair.target, target)
    off = load_pair(original, moved(target, (3, -2)), TrainConfig())
    assert off.aligned == (0, 0)
    np.testing.assert_array_equal(off.target, moved(target, (3, -2)))


def test_pictures_that_differ_in_nothing_but_their_place_have_nothing_to_learn() -> None:
    with pytest.raises(PictureError, match=r"moved back, identical"):
        load_pair(scene(128, 128), moved(scene(128, 128), (2, 1)), TrainConfig(align=True))


def test_the_targets_transparency_is_moved_with_it() -> None:
    target = np.dstack([changed(scene(128, 128), 40, 40, 30), np.zeros((128, 128), np.uint8)])
    target[40:70, 40:70, 3] = 255
    target[..., :3][target[..., 3] == 0] = scene(128, 128)[target[..., 3] == 0]
    opaque = np.dstack([target[..., :3], np.full((128, 128), 254, np.uint8)])
    opaque[40:70, 40:70, 3] = 255
    pair = load_pair(scene(128, 128), moved(opaque, (2, 0)), TrainConfig(mask="alpha", align=True))
    assert pair.aligned == (2, 0)
    assert pair.mask is not None
    np.testing.assert_array_equal(pair.mask[40:70, 40:70] == 1, True)
    assert (pair.mask == 1).sum() == 30 * 30


def test_large_pictures_are_measured_too() -> None:
    original = scene(1280, 1088)
    target = changed(moved(original, (4, 0)), 100, 100, 200)
    assert find_shift(original, target) == (4, 0)
