"""LoRA, DoRA, LoHa and LoKr: each against dense matrices, on linear layers and on convolutions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from lib_addift.lora.layers import DeltaLayer
from lib_addift.lora.network import LoraNetwork
from tests.support import webui_formulas
from tests.support.lora_layers import (
    KINDS,
    dense,
    dropped,
    every_kind,
    every_layer,
    make,
    make_input,
    make_layer,
    module_alone,
    through,
)
from tests.support.models import HALF_DTYPES


@every_kind
@every_layer
@pytest.mark.parametrize("weight", [1.0, -0.7])
def test_hooks_act_like_the_dense_change_merged(kind: str, layer: str, weight: float) -> None:
    module = make_layer(layer)
    network, x = make(kind, module), make_input(module)
    network.multiplier = weight
    with network.attach(), torch.no_grad():
        hooked = module(x)
        delta = network.layers["x"].delta_weight()
    assert delta.shape == module.weight.shape
    assert (hooked - module(x)).abs().max() > 0.01
    torch.testing.assert_close(hooked, through(module, module.weight + weight * delta, x), rtol=1e-4, atol=1e-5)


@every_kind
@every_layer
def test_values_and_gradients_are_those_of_the_definition(kind: str, layer: str) -> None:
    """Against float64 and dense matrices that autograd goes through as they are."""
    module = make_layer(layer)
    network, x = make(kind, module), make_input(module).requires_grad_()
    delta_layer = network.layers["x"]
    goal = torch.randn(module(x).shape, generator=torch.Generator().manual_seed(3))
    delta = delta_layer(x)
    (delta * goal).sum().backward()

    wide = {name: p.detach().double().requires_grad_() for name, p in delta_layer.named_parameters()}
    wide_x, weight = x.detach().double().requires_grad_(), module.weight.double()
    change = dense(kind, wide, weight, delta_layer.alpha)
    expected = through(module, weight + change, wide_x) - through(module, weight, wide_x)
    (expected * goal.double()).sum().backward()

    torch.testing.assert_close(delta.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(delta_layer.delta_weight().double(), change, rtol=1e-4, atol=1e-5)
    for name, parameter in [*delta_layer.named_parameters(), ("x", x)]:
        other = wide_x if name == "x" else wide[name]
        assert other.grad.abs().max() > 1e-3, name
        error = (parameter.grad.double() - other.grad).norm() / other.grad.norm()
        assert error < 1e-5, (name, error)


@every_kind
@every_layer
def test_it_starts_as_nothing_and_everything_can_learn(kind: str, layer: str) -> None:
    module = make_layer(layer)
    network, x = make(kind, module, trained=False), make_input(module)
    before = module.weight.clone()
    with network.attach():
        assert torch.equal(module(x), F.linear(x, module.weight, module.bias) if x.ndim == 3 else module(x))
    plain = module(x)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for step in range(2):
        with network.attach():
            output = module(x)
        if step == 0:
            assert torch.equal(output, plain), "it starts as nothing, bit by bit"
        optimizer.zero_grad()
        (output - plain.roll(1, 0)).square().mean().backward()
        learns = {name for name, p in network.layers["x"].named_parameters() if p.grad.any()}
        grown = {id(p) for p in network.layers["x"].zero_init_parameters()}
        zero = {name for name, p in network.layers["x"].named_parameters() if id(p) in grown}
        assert zero
        if step == 0:
            assert zero <= learns
            assert all(not p.any() for p in network.layers["x"].zero_init_parameters())
        else:
            assert learns == {name for name, _ in network.layers["x"].named_parameters()}
        optimizer.step()
    assert torch.equal(module.weight, before)
    assert module.weight.grad is None


@every_kind
def test_the_same_seed_gives_the_same_start_and_another_seed_another(kind: str) -> None:
    module = make_layer("conv")
    first, same, other = (list(make(kind, module, trained=False, seed=s).parameters()) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


@every_kind
@every_layer
@pytest.mark.parametrize("weight", [1.0, -1.5, 0.3, 2.0, 0.0])
def test_the_file_at_weight_1_acts_in_the_webuis_as_the_weight_did(kind: str, layer: str, weight: float) -> None:
    module = make_layer(layer)
    network = make(kind, module)
    parts = webui_formulas.split(network.tensors(weight))["x"]
    frozen = module.weight.double().numpy()
    wide = {name: p.detach().double() for name, p in network.layers["x"].named_parameters()}
    expected = weight * dense(kind, wide, module.weight.double(), network.layers["x"].alpha).numpy()
    for multiplier in (1.0, -0.5):
        in_webui = webui_formulas.change(parts, frozen, multiplier)
        np.testing.assert_allclose(in_webui, multiplier * expected, rtol=1e-5, atol=1e-6)
    assert parts["alpha"] >= 0
    assert weight == 0 or parts["alpha"] > 0


@every_kind
@every_layer
@pytest.mark.parametrize("weight", [1.0, -1.5])
def test_what_is_written_is_read_again(kind: str, layer: str, weight: float) -> None:
    module = make_layer(layer)
    network, x = make(kind, module), make_input(module)
    loaded = LoraNetwork.over({"x": module, "another": module}, network.tensors(weight))
    assert type(loaded.layers["x"]) is type(network.layers["x"])
    assert loaded.layers["x"].rank == network.layers["x"].rank
    network.multiplier = weight
    outputs = []
    for each in (network, loaded):
        with each.attach(), torch.no_grad():
            outputs.append(module(x))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    if weight == 1:
        again, parameters = loaded.tensors(), dict(network.layers["x"].named_parameters())
        for key, tensor in network.tensors().items():
            assert torch.equal(tensor, again[key]), key
            name = key.removeprefix("x.").removesuffix(".weight")
            assert name == "alpha" or torch.equal(tensor, parameters[name]), key


@pytest.mark.parametrize("dtype", HALF_DTYPES)
@every_kind
@pytest.mark.parametrize("layer", ["linear", "strided"])
def test_over_a_half_precision_model(kind: str, layer: str, dtype: torch.dtype) -> None:
    module = make_layer(layer)
    exact = make(kind, module)
    x = make_input(module)
    with exact.attach(), torch.no_grad():
        expected = module(x)
    half = make_layer(layer).to(dtype)
    before = half.weight.clone()
    network = LoraNetwork.over({"x": half}, exact.tensors())
    for inputs in (x.to(dtype), x) if kind == "dora" else (x.to(dtype),):
        network.zero_grad()
        delta = network.layers["x"](inputs)
        delta.float().square().mean().backward()
        change = expected - module(x)
        assert (delta.float() - change).abs().max() < 0.03 * change.abs().max()
        for parameter in network.parameters():
            assert parameter.grad.dtype == parameter.dtype == torch.float32
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any()
    assert torch.equal(half.weight, before)
    assert half.weight.grad is None


@every_kind
@pytest.mark.parametrize("layer", ["linear", "conv"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_dense_float32_matrix_waits_for_the_gradients(kind: str, layer: str, dtype: torch.dtype) -> None:
    """They would need more memory than the model. `dtype` is the input's, under autocast perhaps not the model's."""
    module = make_layer(layer).to(torch.bfloat16)
    delta_layer, kept = make(kind, module).layers["x"], []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda kept: kept):
        delta_layer(make_input(module, batch=3).to(dtype))
    dense = [each for each in kept if each.shape in (module.weight.shape, module.weight.flatten(1).shape)]
    assert kept
    # LoHa's own change in x's dtype must wait: the input's gradient is made with it.
    assert sum(each.dtype == torch.float32 for each in dense) <= (kind == "loha" and dtype == torch.float32)


@every_kind
@pytest.mark.parametrize("layer", ["linear", "strided"])
def test_dropout_follows_from_its_seed_and_the_layers_name_alone(kind: str, layer: str) -> None:
    module = make_layer(layer)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, same, other = (dropped(kind, module, seed, batch=8) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    make(kind, module)  # it must not have drawn from the common generator
    torch.testing.assert_close(torch.get_rng_state(), state)
    without = dropped(kind, module, None, batch=8)
    torch.testing.assert_close(without, dropped(kind, module, 1, batch=8, share=0.0))
    modules = {"a": module, "b": make_layer(layer)}
    network = LoraNetwork.create(modules, rank=8, alpha=8.0, seed=0, dropout=0.5, **KINDS["lora"])
    network.dropout_seed = 1
    masks = [network._kept(name, torch.zeros(16, 1)) for name in ("a", "b")]
    assert not torch.equal(*masks)


@pytest.mark.parametrize("layer", ["linear", "strided"])
def test_dropout_of_a_lora_leaves_out_ranks_in_each_sample(layer: str) -> None:
    module, batch = make_layer(layer), 12
    delta = dropped("lora", module, 4, batch=batch)
    lora, x = make("lora", module).layers["x"], make_input(module, batch)
    choices = {
        mask: _masked(module, lora, torch.tensor(mask) / 0.5)(x) for mask in itertools.product((0.0, 1.0), repeat=3)
    }
    found = []
    for n in range(batch):
        close = [mask for mask, each in choices.items() if torch.allclose(each[n], delta[n], atol=1e-5)]
        assert len(close) == 1
        found += close
    assert len(set(found)) > 3, "each sample has its own"


def _masked(module: nn.Module, lora: DeltaLayer, factors: torch.Tensor) -> Any:
    up = lora.lora_up.detach().flatten(1) * factors
    change = (up @ lora.lora_down.detach().flatten(1)).view_as(module.weight) * lora.scale
    return lambda x: through(module, module.weight + change, x) - module_alone(module, x)


@every_kind
@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_a_checkpointed_pass_leaves_out_the_same(kind: str, layer: str) -> None:
    module, gradients = make_layer(layer), []
    x = make_input(module, 4).requires_grad_()
    for reentrant in (None, True, False):
        network = make(kind, module, dropout=0.5)
        network.dropout_seed = 7
        with network.attach():
            output = module(x) if reentrant is None else checkpoint(module, x, use_reentrant=reentrant)
            output.square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    for others in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], others, strict=True))
