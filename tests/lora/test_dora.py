"""What is special to DoRA: its norms, its file at other weights, its dropout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.support import webui_formulas
from tests.support.lora_layers import dense, dropped, make, make_input, make_layer, through


def test_what_a_dora_has_learnt_can_be_taken_from_it_without_the_model() -> None:
    """As a run does when it is closed, and the host has its model back."""
    module = make_layer("linear")
    network = make("dora", module)
    before = network.tensors()
    module.weight.data.fill_(torch.nan)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.tensors().items())


def test_a_dora_column_that_has_no_other_length_is_a_little_wrong_and_the_others_are_exact() -> None:
    """At weight 2 and half the length, a column's own part is gone: only then is there no DoRA that does the same."""
    module = make_layer("linear")
    network = make("dora", module)
    layer = network.layers["x"]
    weight = module.weight.double()
    with torch.no_grad():
        down, up = layer.lora_down.double(), layer.lora_up.double()
        norms = (weight + up @ down * layer.scale).square().sum(0).sqrt()
        layer.dora_scale[0, 3] = float(norms[3]) / 2
    expected = 2 * dense("dora", {n: p.detach().double() for n, p in layer.named_parameters()}, weight, layer.alpha)
    parts = webui_formulas.split(network.tensors(2.0))["x"]
    error = np.abs(webui_formulas.change(parts, weight.numpy()) - expected.numpy())
    others = [column for column in range(12) if column != 3]
    assert error[:, others].max() < 1e-5
    assert np.linalg.norm(error[:, 3]) <= 1.01 * float(weight[:, 3].norm()) / 1024
    assert all(np.abs(values).max() < 60_000 for values in parts.values()), "fp16 can hold it"


@pytest.mark.parametrize("layer", ["linear", "strided"])
def test_dropout_of_a_dora_leaves_out_ranks_before_the_norm(layer: str) -> None:
    module, batch = make_layer(layer), 3
    layer_, x = make("dora", module).layers["x"], make_input(module, batch)
    parameters = {name: p.detach().double() for name, p in layer_.named_parameters()}
    matches = []
    for seed in range(6):
        delta = dropped("dora", module, seed, batch=batch).double()
        for mask in itertools.product((0.0, 1.0), repeat=3):
            up = parameters["lora_up"].flatten(1) * torch.tensor(mask).double() / 0.5
            change = dense("dora", {**parameters, "lora_up": up}, module.weight.double(), layer_.alpha)
            weight = module.weight.double()
            expected = through(module, weight + change, x.double()) - through(module, weight, x.double())
            if torch.allclose(delta, expected, atol=1e-4):
                matches.append(mask)
    assert len(matches) == 6
    assert len(set(matches)) > 2
