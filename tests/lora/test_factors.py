"""Every kind of layer as two factors: the same change of weight, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lib_addift.errors import LoraFileError
from lib_addift.lora.arithmetic import RankLimit, resize, sum_loras
from lib_addift.lora.factors import read_factors
from tests.support.dense import dense, flat
from tests.support.loras import CONV, LINEAR, SHAPES, make, random, same, term

OTHERS: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
    "locon with a middle": (CONV, {
        "lora_up.weight": random(12, 3, 1, 1), "lora_mid.weight": random(3, 3, 3, 3),
        "lora_down.weight": random(3, 10, 1, 1), "alpha": torch.tensor(1.5),
    }),
    "loha": (LINEAR, {
        "hada_w1_a": random(24, 2), "hada_w1_b": random(2, 20), "hada_w2_a": random(24, 2, seed=1),
        "hada_w2_b": random(2, 20, seed=1), "alpha": torch.tensor(1.0),
    }),
    "loha of a high rank": (LINEAR, {
        "hada_w1_a": random(24, 6), "hada_w1_b": random(6, 20), "hada_w2_a": random(24, 6, seed=1),
        "hada_w2_b": random(6, 20, seed=1),
    }),
    "loha of a convolution": (CONV, {
        "hada_w1_a": random(3, 12), "hada_w1_b": random(3, 10), "hada_t1": random(3, 3, 3, 3),
        "hada_w2_a": random(3, 12, seed=1), "hada_w2_b": random(3, 10, seed=1), "hada_t2": random(3, 3, 3, 3, seed=1),
        "alpha": torch.tensor(1.0),
    }),
    "lokr": (LINEAR, {"lokr_w1": random(4, 5), "lokr_w2": random(6, 4), "alpha": torch.tensor(0.4)}),
    "lokr with a low rank": (LINEAR, {
        "lokr_w1": random(4, 2), "lokr_w2_a": random(6, 2), "lokr_w2_b": random(2, 10), "alpha": torch.tensor(1.0),
    }),
    "lokr with two low ranks": (LINEAR, {
        "lokr_w1_a": random(4, 1), "lokr_w1_b": random(1, 2), "lokr_w2_a": random(6, 1), "lokr_w2_b": random(1, 10),
        "alpha": torch.tensor(0.5),
    }),
    "lokr of a convolution": (CONV, {"lokr_w1": random(2, 2), "lokr_w2": random(6, 5, 3, 3)}),
    "lokr of a convolution with a core": (CONV, {
        "lokr_w1": random(2, 2), "lokr_t2": random(2, 2, 3, 3), "lokr_w2_a": random(2, 6), "lokr_w2_b": random(2, 5),
        "alpha": torch.tensor(1.0),
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(OTHERS))
def test_every_kind_of_layer_becomes_the_same_change_of_weight(kind: str) -> None:
    layer, own = OTHERS[kind]
    tensors = {f"{layer}.{key}": tensor for key, tensor in own.items()}
    plain = make(11, layers={layer: SHAPES[layer]})
    found = sum_loras([term(tensors, 2.0), term(plain)], RankLimit()).tensors
    same(found, lambda name: 2 * dense(tensors, name) + dense(plain, name), 1e-5)
    small = resize(tensors, rank=2)
    values = np.linalg.svd(flat(dense(tensors, layer)), compute_uv=False)
    error = np.linalg.norm(flat(dense(tensors, layer)) - flat(dense(small, layer)))
    assert error == pytest.approx(np.linalg.norm(values[2:]), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "rank"), [("loha", 4), ("loha of a high rank", 20), ("lokr", 16), ("lokr with two low ranks", 1)]
)
def test_other_kinds_have_no_more_factors_than_they_need(kind: str, rank: int) -> None:
    assert read_factors(*OTHERS[kind]).rank == rank


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_a_flattened_kernel_comes_back(kind: str) -> None:
    """LyCORIS writes the kernels of convolutions without a core flattened."""
    own = {
        "loha": {"hada_w1_a": random(12, 2), "hada_w1_b": random(2, 90), "hada_w2_a": random(12, 2, seed=1),
                 "hada_w2_b": random(2, 90, seed=1)},
        "lokr": {"lokr_w1": random(2, 2), "lokr_w2_a": random(6, 2), "lokr_w2_b": random(2, 45)},
    }[kind]  # fmt: skip
    tensors = {f"{CONV}.{key}": tensor for key, tensor in own.items()}
    found = sum_loras([term(tensors)], RankLimit()).tensors
    assert dense(found, CONV).shape == SHAPES[CONV]
    assert np.allclose(flat(dense(found, CONV)), flat(dense(tensors, CONV)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dora_scale": torch.ones(24, 1)}, "is a DoRA"),
        ({"lora_up.weight": torch.ones(24, 5)}, "does not fit together"),
        ({"lora_up.weight": None}, "no whole LoRA"),
        ({"lora_up.weight": torch.full((24, 3), torch.inf)}, "not finite"),
        ({"alpha": torch.tensor(torch.nan)}, "not finite"),
    ],
)
def test_a_broken_layer_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    tensors = make(1, layers={LINEAR: SHAPES[LINEAR]})
    tensors |= {f"{LINEAR}.{key}": value for key, value in change.items() if value is not None}
    for key, value in change.items():
        if value is None:
            del tensors[f"{LINEAR}.{key}"]
    with pytest.raises(LoraFileError, match=sentence) as raised:
        sum_loras([term(tensors)], RankLimit())
    assert str(raised.value).count(LINEAR) == 1
    assert "\n" not in str(raised.value)


def test_unknown_tensors_of_a_layer_are_refused() -> None:
    with pytest.raises(LoraFileError, match=r"oft_blocks, which is no whole LoRA"):
        read_factors(LINEAR, {"oft_blocks": torch.ones(2)})
