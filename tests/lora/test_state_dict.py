"""Layers of every kind in other trainers' forms, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lib_addift.errors import LoraFileError
from lib_addift.lora.network import LoraNetwork
from tests.support import webui_formulas


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


LINEAR, CONV, POINT = nn.Linear(12, 10), nn.Conv2d(12, 10, 3, padding=1), nn.Conv2d(12, 10, 1)
FOREIGN: dict[str, tuple[nn.Module, dict[str, torch.Tensor]]] = {
    "LoRA without alpha": (LINEAR, {"lora_up.weight": random(10, 3), "lora_down.weight": random(3, 12)}),
    "LoCon with a core": (
        CONV,
        {
            "lora_up.weight": random(10, 3, 1, 1),
            "lora_mid.weight": random(3, 3, 3, 3),
            "lora_down.weight": random(3, 12, 1, 1),
            "alpha": torch.tensor(2.0),
        },
    ),
    "LoHa with cores": (
        CONV,
        {
            "hada_t1": random(2, 2, 3, 3),
            "hada_w1_a": random(2, 10),
            "hada_w1_b": random(2, 12),
            "hada_t2": random(2, 2, 3, 3).flip(0),
            "hada_w2_a": random(2, 10).flip(0),
            "hada_w2_b": random(2, 12).flip(0),
            "alpha": torch.tensor(0.5),
        },
    ),
    "LoKr of two decomposed ones": (
        LINEAR,
        {
            "lokr_w1_a": random(2, 1),
            "lokr_w1_b": random(1, 3),
            "lokr_w2_a": random(5, 2),
            "lokr_w2_b": random(2, 4),
            "alpha": torch.tensor(3.0),
        },
    ),
    "LoKr with a decomposed first one": (
        CONV,
        {
            "lokr_w1_a": random(2, 3),
            "lokr_w1_b": random(3, 3),
            "lokr_w2": random(5, 4, 3, 3),
            "alpha": torch.tensor(7.0),
        },
    ),
    "LoKr with a core": (
        CONV,
        {
            "lokr_w1": random(2, 3),
            "lokr_t2": random(2, 2, 3, 3),
            "lokr_w2_a": random(2, 5),
            "lokr_w2_b": random(2, 4),
            "alpha": torch.tensor(3.0),
        },
    ),
    "LoKr of a flat kernel": (POINT, {"lokr_w1": random(5, 4), "lokr_w2": random(2, 3), "alpha": torch.tensor(9.0)}),
    "LoKr without alpha": (
        CONV,
        {
            "lokr_w1_a": random(2, 1),
            "lokr_w1_b": random(1, 3),
            "lokr_w2_a": random(5, 2),
            "lokr_w2_b": random(2, 4 * 9),
        },
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_other_trainers_write_acts_as_in_the_webuis(name: str, dtype: torch.dtype) -> None:
    module, parts = FOREIGN[name]
    tensors = {f"x.{part}": tensor.to(dtype) for part, tensor in parts.items()}
    network = LoraNetwork.over({"x": module}, tensors)
    weight = module.weight.detach().double().numpy()
    expected = webui_formulas.change(webui_formulas.split(tensors)["x"], weight)
    np.testing.assert_allclose(network.layers["x"].delta_weight().detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    for folded in (1.0, -0.3):
        parts_again = webui_formulas.split(network.tensors(folded))["x"]
        np.testing.assert_allclose(webui_formulas.change(parts_again, weight), folded * expected, rtol=1e-4, atol=1e-4)


LOHA = {"hada_w1_a": (10, 2), "hada_w1_b": (2, 12), "hada_w2_a": (10, 2), "hada_w2_b": (2, 12)}


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({**LOHA, "hada_w1_b": (2, 11)}, "layer 'x' of the LoRA does not fit this model's"),
        ({**LOHA, "hada_w1_a": (9, 2)}, "does not fit"),
        ({**LOHA, "hada_w2_b": (3, 12)}, "does not fit"),
        ({"lokr_w1": (2, 3), "lokr_w2": (5, 5)}, "does not fit"),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 4)}, "does not fit"),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (5, 1), "lokr_w2_b": (2, 4)}, "does not fit"),
        ({"lokr_w1": (2,), "lokr_w2": (5, 12)}, "does not fit"),
        ({"lora_up.weight": (10, 3), "lora_down.weight": (2, 12)}, "does not fit"),
        ({"lora_up.weight": (10, 3), "lora_down.weight": (3, 12), "dora_scale": (1, 11)}, "does not fit"),
        (
            {"lora_up.weight": (10, 3), "lora_down.weight": (3, 12), "dora_scale": (10, 1)},
            "'x.dora_scale' is one for each output channel.*wd_on_output=False",
        ),
        ({**LOHA, "dora_scale": (1, 12)}, "'x.dora_scale' and what else its layer has make no whole LoRA, DoRA, LoHa"),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (5, 2)}, "'x.lokr_w1' and"),
        ({"lora_up.weight": (10, 3)}, "'x.lora_up.weight' and"),
        ({"alpha": (1,)}, "'x.alpha' and"),
        ({"a1.weight": (1, 12)}, "'x.a1.weight' and"),
        ({**LOHA, "diff_b": (10,)}, "'x.diff_b' and"),
    ],
)
def test_layers_that_cannot_be_read_are_refused(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    tensors = {f"x.{part}": torch.ones(shape) for part, shape in shapes.items()}
    with pytest.raises(LoraFileError, match=words) as caught:
        LoraNetwork.over({"x": LINEAR}, tensors)
    assert str(caught.value).endswith(".")


def test_a_kronecker_product_that_cuts_through_kernels_is_refused() -> None:
    """in = 3, k = 2: a first factor of 4 columns divides in * k * k but not in."""
    module = nn.Conv2d(3, 2, 2)
    tensors = {"x.lokr_w1": torch.ones(1, 4), "x.lokr_w2_a": torch.ones(2, 1), "x.lokr_w2_b": torch.ones(1, 3)}
    with pytest.raises(LoraFileError, match="does not fit"):
        LoraNetwork.over({"x": module}, tensors)
