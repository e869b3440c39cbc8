"""Mirrored and enlarged views of a pair."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.data.augment import is_worth_mirroring, views, views_count
from lib_addift.data.pairs import ImagePair, load_pair
from lib_addift.demo import world
from tests.support.training import source


def test_mirror_and_zoom_act_on_both_pictures_and_the_mask_alike() -> None:
    pair = load_pair(*dataclasses.astuple(source(0))[:2], TrainConfig.create())
    config = TrainConfig.create(mirror="on", zoom=2.0)
    plain, zoomed, mirrored, both = views(pair, config)
    assert views_count(config) == 4
    assert plain is pair
    for one, other in ((plain, mirrored), (zoomed, both)):
        for part in ("original", "target", "mask"):
            np.testing.assert_array_equal(getattr(one, part)[:, ::-1], getattr(other, part))
    changed = (pair.original != pair.target).any(axis=2).mean()
    assert (zoomed.original != zoomed.target).any(axis=2).mean() > 2 * changed, (
        "it is the changed part that is enlarged"
    )
    assert zoomed.mask is not None
    assert zoomed.mask.mean() > pair.mask.mean()
    same = zoomed.mask < 0.01
    np.testing.assert_array_equal(zoomed.original[same], zoomed.target[same])


def test_a_zoom_at_the_border_stays_in_the_picture() -> None:
    original = np.zeros((64, 128, 3), dtype=np.uint8)
    target, mask = original.copy(), np.zeros((64, 128), dtype=np.float32)
    target[:4, -4:], mask[:4, -4:] = 255, 1
    _, zoomed = views(ImagePair(original, target, mask), TrainConfig.create(zoom=4.0))
    assert zoomed.target.shape == original.shape
    assert zoomed.target[0, -1].min() == 255
    assert zoomed.mask is not None
    assert zoomed.mask[0, -1] == pytest.approx(1, abs=1e-3)


def _pair(original: world.Face, target: world.Face) -> ImagePair:
    return ImagePair(np.asarray(world.draw(original)), np.asarray(world.draw(target)), None)


@pytest.mark.parametrize("position", ["left", "right"])
@pytest.mark.parametrize(
    ("name", "value"), [("eyes", "closed"), ("mouth", "open"), ("hair", "blond"), ("skin", "dark")]
)
def test_a_change_of_a_face_is_the_same_in_a_mirror_on_either_side_of_the_picture(
    position: str, name: str, value: str
) -> None:
    face = world.Face(position=position)
    assert is_worth_mirroring(_pair(face, dataclasses.replace(face, **{name: value})))


def test_a_movement_is_not_the_same_in_a_mirror() -> None:
    left, right = (world.Face(position=position) for position in ("left", "right"))
    assert not is_worth_mirroring(_pair(left, right))
    assert not is_worth_mirroring(_pair(right, left))


def test_a_movement_at_the_border_of_an_odd_picture_is_not_the_same_in_a_mirror() -> None:
    original = np.zeros((64, 90, 3), dtype=np.uint8)
    target = original.copy()
    original[20:50, 66:76], target[20:50, 80:90] = 200, 200
    assert not is_worth_mirroring(ImagePair(original, target, None))


@pytest.mark.parametrize(("name", "value"), [("background", "grey"), ("style", "textured")])
def test_a_change_of_most_of_the_picture_has_no_side(name: str, value: str) -> None:
    face = world.Face()
    assert not is_worth_mirroring(_pair(face, dataclasses.replace(face, **{name: value})))


def test_no_change_at_all_is_the_same_in_a_mirror() -> None:
    assert is_worth_mirroring(_pair(world.Face(), world.Face()))
