"""What is special to LoHa and LoKr: how sizes are split, and their dropout."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_addift.lora.lycoris import split_size
from tests.support.lora_layers import dropped, make, make_layer

# Dropout


@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr whole"])
@pytest.mark.parametrize("layer", ["linear", "strided"])
def test_dropout_of_loha_and_lokr_leaves_out_outputs(kind: str, layer: str) -> None:
    module = make_layer(layer)
    whole, part = (dropped(kind, module, seed, batch=40, share=0.25) for seed in (None, 3))
    axis = -1 if layer == "linear" else 1
    part, whole = part.movedim(axis, 1).flatten(2), whole.movedim(axis, 1).flatten(2)  # (B, channels, ...)
    gone = part.abs().amax(2) < 1e-6
    torch.testing.assert_close(part[~gone], whole[~gone] / 0.75, rtol=1e-4, atol=1e-5)
    assert 0.15 < gone.float().mean() < 0.35


# Sizes


def test_a_second_factor_is_whole_where_its_own_factors_would_save_nothing() -> None:
    """LyCORIS' rule: 12 -> 10 is (3 x 4) -> (2 x 5), and half of 5 is 2.5."""
    decomposed, whole = (make("lokr", make_layer("linear"), rank=rank).tensors() for rank in (2, 3))
    assert set(decomposed) == {"x.lokr_w1", "x.lokr_w2_a", "x.lokr_w2_b", "x.alpha"}
    assert set(whole) == {"x.lokr_w1", "x.lokr_w2", "x.alpha"}
    assert (decomposed["x.alpha"], whole["x.alpha"]) == (1.5, 3.0)


@given(size=st.integers(1, 4096), factor=st.one_of(st.just(-1), st.integers(1, 200)))
def test_a_size_is_split_as_lycoris_splits_it(size: int, factor: int) -> None:
    small, large = split_size(size, factor)
    assert small * large == size
    assert small <= large
    divisors = [number for number in range(1, math.isqrt(size) + 1) if size % number == 0]
    if factor > 0 and size % factor == 0:
        assert factor in (small, large)
    else:
        assert small == max(number for number in divisors if factor < 0 or number <= factor)


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [(127, -1, (1, 127)), (128, -1, (8, 16)), (128, 4, (4, 32)), (250, 8, (5, 50)), (1024, -1, (32, 32))],
)
def test_sizes_of_lycoris_own_table(size: int, factor: int, expected: tuple[int, int]) -> None:
    assert split_size(size, factor) == expected
