"""LoRA, DoRA, LoHa and LoKr: each against dense matrices, on linear layers and on convolutions."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError
from lib_addift.lora.layers import DeltaLayer
from lib_addift.lora.lycoris import split_size
from lib_addift.lora.network import LoraNetwork, combine
from lib_addift.training.joint import can_share
from lib_addift.training.methods import make_config
from lib_addift.training.optimizer import make_optimizer
from tests.support import webui_formulas
from tests.support.models import HALF_DTYPES

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"algorithm": "lora"},
    "dora": {"algorithm": "lora", "dora": True},
    "loha": {"algorithm": "loha"},
    "lokr": {"algorithm": "lokr", "rank": 1},
    "lokr whole": {"algorithm": "lokr", "rank": 16},
    "lokr by 2": {"algorithm": "lokr", "lokr_factor": 2, "rank": 2},
}
LAYERS = {
    "linear": lambda: nn.Linear(12, 10),
    "without bias": lambda: nn.Linear(6, 18, bias=False),
    "conv": lambda: nn.Conv2d(6, 10, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(4, 6, (3, 2), dilation=2),
    "1x1": lambda: nn.Conv2d(12, 6, 1),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_layer = pytest.mark.parametrize("layer", LAYERS)


def make_layer(layer: str) -> nn.Module:
    torch.manual_seed(5)
    return LAYERS[layer]().requires_grad_(False)


def make(kind: str, module: nn.Module, *, trained: bool = True, **settings: Any) -> LoraNetwork:
    """A LoRA of one layer, 'x'; `trained`: all its parameters are somewhere else than where they start."""
    network = LoraNetwork.create({"x": module}, **{"rank": 3, "alpha": 1.5, "seed": 0, **KINDS[kind], **settings})
    if trained:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return network


def make_input(module: nn.Module, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if isinstance(module, nn.Conv2d):
        return torch.randn(batch, module.in_channels, 8, 8, generator=generator)
    return torch.randn(batch, 5, module.in_features, generator=generator)


def through(module: nn.Module, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The layer's output with another weight."""
    bias = None if module.bias is None else module.bias.to(weight.dtype)
    if isinstance(module, nn.Conv2d):
        return F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation)
    return F.linear(x, weight, bias)


def dense(kind: str, p: dict[str, torch.Tensor], weight: torch.Tensor, alpha: float) -> torch.Tensor:
    """The change of weight as its definition says, from parameters by name."""
    if kind == "loha":
        delta = (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])
        return (delta * alpha / len(p["hada_w1_b"])).reshape(weight.shape)
    if kind.startswith("lokr"):
        w2 = p["lokr_w2"] if "lokr_w2" in p else p["lokr_w2_a"] @ p["lokr_w2_b"]
        scale = 1.0 if "lokr_w2" in p else alpha / len(p["lokr_w2_b"])
        return torch.kron(p["lokr_w1"], w2.flatten(1)).reshape(weight.shape) * scale
    low = (p["lora_up"].flatten(1) @ p["lora_down"].flatten(1)).reshape(weight.shape) * alpha / len(p["lora_down"])
    if kind == "lora":
        return low
    merged = weight + low
    norm = merged.square().sum(dim=[0, *range(2, weight.ndim)], keepdim=True).sqrt()
    return merged * p["dora_scale"] / norm - weight


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


# Dropout


def dropped(kind: str, module: nn.Module, seed: int | None, *, batch: int = 2, share: float = 0.5) -> torch.Tensor:
    """What the LoRA adds."""
    network, x = make(kind, module, dropout=share), make_input(module, batch)
    network.dropout_seed = seed
    with network.attach(), torch.no_grad():
        return module(x) - module_alone(module, x)


def module_alone(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return through(module, module.weight, x)


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


# LoRA+, the optimizer's groups


@every_kind
def test_what_starts_at_zero_learns_faster(kind: str) -> None:
    modules = {"lora_unet_a": make_layer("linear"), "lora_te_b": make_layer("conv")}
    network = LoraNetwork.create(modules, **{"rank": 3, "alpha": 1.5, "seed": 0, **KINDS[kind]})
    names = {id(p): name for name, p in network.named_parameters()}
    ratios = {}
    for group in network.parameter_groups(16.0, text_encoder_rate=0.5):
        for parameter in group["params"]:
            name = names[id(parameter)].removeprefix("_registered.")
            ratios[name] = group["ratio"]
            assert (group.get("weight_decay") == 0.0) == ("dora_scale" in name)
    zeros = {name.removeprefix("_registered.") for name, p in network.named_parameters() if not p.any()}
    assert len(zeros) == 2
    for name, ratio in ratios.items():
        assert ratio == (16 if name in zeros else 1) * (0.5 if name.startswith("lora_te") else 1)
    assert len(ratios) == len(list(network.parameters()))


def test_without_lora_plus_there_is_one_group_in_the_networks_own_order() -> None:
    network = LoraNetwork.create({"a": make_layer("linear"), "b": make_layer("conv")}, rank=2, alpha=1.0, seed=0)
    (group,) = network.parameter_groups()
    assert group["ratio"] == 1
    assert all(a is b for a, b in zip(group["params"], network.parameters(), strict=True))
    assert set(group) == {"params", "ratio"}


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Adagrad"])
def test_an_optimizer_takes_the_groups_and_norms_do_not_decay(optimizer: str) -> None:
    network = make("dora", make_layer("linear"))
    config = TrainConfig.create(optimizer=optimizer, optimizer_args="weight_decay=0.5", lora_plus_ratio=4)
    made = make_optimizer(config, network.parameter_groups(4.0), 0.1)
    norms, up = (getattr(network.layers["x"], name).detach().clone() for name in ("dora_scale", "lora_up"))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    assert torch.equal(network.layers["x"].dora_scale, norms)
    assert not torch.equal(network.layers["x"].lora_up, up)
    assert sorted({group["ratio"] for group in made.param_groups}) == [1.0, 4.0]


def test_an_optimizer_with_one_rate_for_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prodigy = type("Prodigy", (torch.optim.SGD,), {})
    monkeypatch.setattr(torch.optim, "Prodigy", prodigy, raising=False)
    parameters = [nn.Parameter(torch.zeros(1))]
    make_optimizer(TrainConfig.create(optimizer="prodigy"), parameters, 1.0)
    with pytest.raises(ConfigError, match="lora_plus_ratio = 2: set that to 1"):
        make_optimizer(TrainConfig.create(optimizer="prodigy", lora_plus_ratio=2), parameters, 1.0)


# Sums and stacks


def test_a_sum_of_loras_is_exact() -> None:
    modules = {"a": make_layer("linear"), "b": make_layer("strided"), "c": make_layer("conv")}
    networks = []
    for seed, (names, rank) in enumerate((("ab", 3), ("bc", 2), ("ab", 1))):
        network = LoraNetwork.create({n: modules[n] for n in names}, rank=rank, alpha=1.5 + seed, seed=seed)
        for layer in network.layers.values():
            nn.init.normal_(layer.lora_up)
        networks.append(network)
    weights = (1.0, -0.7, 2.5)
    total = combine(list(zip(networks, weights, strict=True)))
    assert {name: layer.rank for name, layer in total.layers.items()} == {"a": 4, "b": 6, "c": 2}
    assert total.is_stackable
    for name, module in modules.items():
        expected = sum(
            weight * network.layers[name].delta_weight().double()
            for network, weight in zip(networks, weights, strict=True)
            if name in network.layers
        )
        torch.testing.assert_close(total.layers[name].delta_weight().double(), expected, rtol=1e-5, atol=1e-6)
        assert total.targets[name] is module
        x = make_input(module)
        with total.attach(), torch.no_grad():
            torch.testing.assert_close(module(x), through(module, module.weight + expected.float(), x))
    networks[0].layers["a"].lora_up.data.zero_()
    assert total.layers["a"].lora_up.any(), "the sum has its own numbers"


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_other_kinds_cannot_be_added_up(kind: str) -> None:
    module = make_layer("linear")
    with pytest.raises(ConfigError, match="layer 'x' is no plain LoRA"):
        combine([(make("lora", module), 1.0), (make(kind, module), 1.0)])


def test_only_plain_loras_without_dropout_learn_in_one_pass() -> None:
    module = make_layer("linear")
    assert make("lora", module).is_stackable
    assert not make("lora", module, dropout=0.1).is_stackable
    assert not any(make(kind, module).is_stackable for kind in KINDS if kind != "lora")
    pairs = [SimpleNamespace(original=np.zeros((64, 64, 3)))]
    for settings in ({}, {"dora": True}, {"algorithm": "loha"}, {"algorithm": "lokr"}, {"dropout": 0.1}):
        run = SimpleNamespace(config=TrainConfig.create(**settings), pairs=pairs)
        assert run.config.is_stackable == (not settings)
        assert can_share(run, run) == (not settings)


# Settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dora": True, "algorithm": "loha"}, "dora = true needs algorithm = lora, and it is loha"),
        ({"dora": True, "algorithm": "lokr"}, "dora = true needs algorithm = lora, and it is lokr"),
        ({"dora": True, "result_rank": 2}, "result_rank = 2 cuts ranks away, which a DoRA does not bear"),
        ({"lokr_factor": 0}, "lokr_factor = 0 splits nothing"),
        ({"algorithm": "oft"}, "algorithm = 'oft' is no choice: use one of lora, loha, lokr"),
        ({"dropout": 0.95}, "dropout = 0.95 is out of bounds"),
        ({"lora_plus_ratio": 0.5}, "lora_plus_ratio = 0.5 is out of bounds"),
        ({"method": "residual", "algorithm": "loha"}, "method = residual adds LoRAs up, which algorithm = loha cannot"),
        ({"method": "differential", "dora": True}, "method = differential adds LoRAs up, which dora = true cannot"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(**settings)


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
