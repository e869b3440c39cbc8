"""The difference of two models as a LoRA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lib_addift.errors import ConfigError
from lib_addift.lora.arithmetic import RankLimit
from lib_addift.lora.extract import difference
from tests.support.dense import dense, flat
from tests.support.loras import CONV, LINEAR, SHAPES, Tensors, random


class FakeWeights:
    """A checkpoint in memory."""

    sha256 = "0" * 64

    def __init__(self, title: str, weights: Tensors) -> None:
        self.title, self._weights = title, weights
        self.shapes = {name: tuple(weight.shape) for name, weight in weights.items()}

    def weight(self, layer: str) -> torch.Tensor:
        return self._weights[layer]


def test_the_difference_of_two_models_in_a_rank() -> None:
    base = {name: random(*shape) for name, shape in SHAPES.items()}
    tuned = {name: weight + 0.1 * random(*weight.shape, seed=5) for name, weight in base.items()}
    models = FakeWeights("tuned", tuned), FakeWeights("base", base)
    kinds = ("self_attention", "convolutions", "projections")
    found = difference(*models, layers=kinds, parts=("IN", "MID", "OUT", "TE"), limit=RankLimit(rank=4))
    assert found.ranks == dict.fromkeys(sorted(SHAPES), 4)
    for layer in SHAPES:
        change = flat((tuned[layer].double() - base[layer].double()).numpy())
        left, values, right = np.linalg.svd(change, full_matrices=False)
        assert np.abs(flat(dense(found.tensors, layer)) - left[:, :4] * values[:4] @ right[:4]).max() < 1e-5
    some = difference(*models, layers=("convolutions",), parts=("OUT",), limit=RankLimit(energy=0.9))
    assert list(some.ranks) == [CONV]
    assert 0.9 <= some.kept < 1


def test_models_that_do_not_fit_together_are_one_sentence() -> None:
    base = {LINEAR: random(24, 20)}
    chosen: dict[str, Any] = {"layers": ("self_attention",), "parts": ("IN",), "limit": RankLimit(rank=2)}
    for other, sentence in (
        ({LINEAR: random(24, 21)}, "choose two checkpoints of one kind"),
        ({}, "lacks layer"),
        (base, "do not differ"),
        ({LINEAR: torch.full((24, 20), torch.nan)}, "not finite"),
    ):
        with pytest.raises(Exception, match=sentence):
            difference(FakeWeights("tuned", other), FakeWeights("base", base), **chosen)
    with pytest.raises(Exception, match="no text encoder"):
        difference(FakeWeights("a", base), FakeWeights("b", base), **{**chosen, "parts": ("IN", "TE")})
    with pytest.raises(ConfigError, match="no layers are chosen"):
        difference(FakeWeights("a", base), FakeWeights("b", base), **{**chosen, "layers": ()})
