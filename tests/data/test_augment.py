"""Mirrored and enlarged views of a pair."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.data.augment import views, views_count
from lib_addift.data.pairs import ImagePair, load_pair
from tests.support.training import source


def test_mirror_and_zoom_act_on_both_pictures_and_the_mask_alike() -> None:
    pair = load_pair(*dataclasses.astuple(source(0))[:2], TrainConfig.create())
    config = TrainConfig.create(mirror=True, zoom=2.0)
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
