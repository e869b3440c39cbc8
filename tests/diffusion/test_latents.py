"""Pairs as the UNet sees them: the mask in the size of the latents, the sides of a direction, unrelated pairs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.diffusion.latents import UNRELATED_PROMPTS, Direction, Role, encode_pair, unrelated_pairs
from tests.support.fake_host import FakeHost
from tests.support.training import pair_of


def test_the_mask_becomes_weights_in_the_size_of_the_latents() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    mask = np.zeros((64, 64), dtype=np.float32)
    mask[:, :36] = 1  # px; four whole columns of latents and half of the fifth
    pair = encode_pair(FakeHost(), ImagePair(*pictures, mask=mask), TrainConfig.create("action", mask_floor=0.2))
    assert pair.mask is not None
    expected = torch.tensor([1, 1, 1, 1, 0.6, 0.2, 0.2, 0.2])
    torch.testing.assert_close(pair.mask, expected.expand(1, 1, 8, 8))


def test_each_direction_asks_for_the_prediction_of_the_side_that_the_other_trains_on() -> None:
    config = TrainConfig.create("action")
    pair = pair_of(FakeHost(), config, seed=1)
    assert pair.student(Direction.FORWARD) is pair.target
    for direction in Direction:
        assert pair.reference(direction) is pair.student(direction.opposite)
        assert pair.reference(direction) is not pair.student(direction)


def test_unrelated_pairs_are_noise_of_the_same_size_for_each_prompt() -> None:
    host, config = FakeHost(), TrainConfig.create("action", self_regularisation=0.5, seed=4)
    pair = pair_of(host, config, seed=1, size=128)
    unrelated = unrelated_pairs(host, pair, config)
    assert tuple(each.original.prompt for each in unrelated) == UNRELATED_PROMPTS
    assert all(each.original is each.target and each.role is Role.KEEP and each.weight == 0.5 for each in unrelated)
    assert {each.original.latents.shape for each in unrelated} == {pair.original.latents.shape}
    again = unrelated_pairs(host, pair, config)
    assert all(torch.equal(a.original.latents, b.original.latents) for a, b in zip(unrelated, again, strict=True))
    assert not torch.equal(unrelated[0].original.latents, unrelated[1].original.latents)


def test_a_pairs_change_is_0_where_nothing_differs_and_near_1_where_it_does() -> None:
    host, config = FakeHost(), TrainConfig.create()
    pair = pair_of(host, config, 1)
    latents = pair.original.latents.clone()
    latents[..., 2, 3] += 1.0
    latents[..., 4, 4] += 0.1**0.5
    change = dataclasses.replace(pair, target=dataclasses.replace(pair.original, latents=latents)).change
    assert change.shape == (1, 1, *latents.shape[2:])
    assert change[0, 0, 2, 3].item() == pytest.approx(1 / 1.1)
    assert change[0, 0, 4, 4].item() == pytest.approx(0.5)
    change[0, 0, 2, 3] = change[0, 0, 4, 4] = 0
    assert not change.any()
    assert not dataclasses.replace(pair, target=pair.original).change.any()
