"""The mask that is found from the difference of two pictures."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from lib_addift.data.mask import difference_mask, dilated
from lib_addift.demo.world import draw, random_face
from tests.support.pictures import as_jpeg, changed, mask_of, pair_of, scene

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


def test_dilated_adds_a_margin() -> None:
    area = np.zeros((7, 9), dtype=bool)
    area[3, 4] = area[0, 8] = True
    grown = dilated(area, 2)
    assert grown.sum() == 25 + 9 - 2  # the corner's square is cut by the border, and the two share two pixels
    assert grown[1:6, 2:7].all()
