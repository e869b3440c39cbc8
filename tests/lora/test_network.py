"""LoRAs over a whole model: which layers, hooks, weights for each sample, files and groups for the optimizer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lib_addift.config.settings import BLOCKS, LAYER_KINDS
from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import LoraFileError
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import layer_kind, select_layers
from tests.support.fake_host import FakeHost
from tests.support.lora_layers import KINDS, every_kind, make_layer
from tests.support.lora_networks import make as make_kind


def make(host: FakeHost, rank: int = 3) -> LoraNetwork:
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=rank, alpha=2.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in network.layers.values():
            layer.lora_up.normal_(generator=generator)
    return network


def predict(host: FakeHost, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 4, 8, 8, generator=generator).expand(batch, -1, -1, -1)
    cond = torch.randn(1, 5, 6, generator=generator).expand(batch, -1, -1)
    return host.predict_noise(latents, torch.full((batch,), 500), Conditions(cond))


def test_each_kind_of_layer_is_found_and_nothing_else() -> None:
    host = FakeHost()
    names = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    assert [layer_kind(name) for name in names] == [
        "convolutions", "convolutions", "self_attention", "projections", "cross_attention", "feed_forward",
    ]  # fmt: skip
    only = select_layers(host.unet, host.lora_name, layers=["self_attention", "feed_forward"], blocks=["OUT"])
    assert [layer_kind(name) for name in only] == ["feed_forward"]


@pytest.mark.parametrize("weight", [0.7, -1.3])
def test_hooks_act_like_weights_merged_by_hand(weight: float) -> None:
    host, merged = FakeHost(), FakeHost()
    network = make(host)
    network.multiplier = weight
    with network.attach():
        hooked = predict(host)
    modules = {merged.lora_name(name): module for name, module in merged.unet.named_modules()}
    tensors = network.tensors()
    with torch.no_grad():
        for name in network.layers:
            down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
            delta = (up.flatten(1) @ down.flatten(1)).view_as(modules[name].weight)
            modules[name].weight += weight * tensors[f"{name}.alpha"] / down.shape[0] * delta
    torch.testing.assert_close(hooked, predict(merged), rtol=1e-5, atol=1e-5)


def test_a_multiplier_per_sample_equals_one_run_each() -> None:
    host = FakeHost()
    network = make(host)
    weights = [-1.0, -0.5, 0.0, 0.5, 1.0]
    with network.attach():
        network.multiplier = torch.tensor(weights)
        together = predict(host, batch=5)
        for row, weight in zip(together, weights, strict=True):
            network.multiplier = weight
            torch.testing.assert_close(row, predict(host)[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(together[2], predict(host, batch=5)[2]), "at multiplier 0 the model is itself, bit by bit"


def test_detaching_leaves_no_trace_even_after_an_error() -> None:
    host = FakeHost()
    before = predict(host)
    keys = list(host.unet.state_dict())
    network = make(host)
    with pytest.raises(RuntimeError, match="simulated"), network.attach():
        assert not torch.equal(before, predict(host))
        raise RuntimeError("simulated")
    assert torch.equal(before, predict(host))
    assert list(host.unet.state_dict()) == keys
    assert not any(module._forward_hooks for module in host.unet.modules())


@pytest.mark.parametrize("weight", [2.5, -2.5])
def test_tensors_fold_a_weight_and_load_again(weight: float) -> None:
    host = FakeHost()
    network = make(host)
    network.multiplier = weight
    with network.attach():
        expected = predict(host)
    tensors = network.tensors(weight)
    assert all(value > 0 for key, value in tensors.items() if key.endswith(".alpha"))
    loaded = LoraNetwork.from_tensors(tensors, host.unet, host.lora_name)
    loaded.multiplier = 1.0
    with loaded.attach():
        torch.testing.assert_close(predict(host), expected, rtol=1e-5, atol=1e-5)


def test_a_lora_for_another_model_is_refused() -> None:
    host = FakeHost()
    tensors = {"lora_unet_nowhere.lora_down.weight": torch.zeros(1, 8)}
    with pytest.raises(LoraFileError, match="lora_unet_nowhere"):
        LoraNetwork.from_tensors(tensors, host.unet, host.lora_name)


def test_gradients_reach_float32_weights_over_a_half_precision_model() -> None:
    host = FakeHost(dtype=torch.bfloat16)
    network = make(host)
    with network.attach():
        predict(host).square().mean().backward()
    for layer in network.layers.values():
        assert layer.lora_up.grad is not None
        assert layer.lora_up.grad.dtype == torch.float32
        assert layer.lora_down.grad is not None
        assert torch.isfinite(layer.lora_down.grad).all()
    assert all(p.grad is None for p in host.unet.parameters())


def test_strided_convolutions_keep_their_stride() -> None:
    module = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)
    network = LoraNetwork.create({"x": module}, rank=2, alpha=2.0, seed=0)
    torch.nn.init.normal_(network.layers["x"].lora_up)
    x = torch.randn(2, 4, 8, 8)
    with network.attach(), torch.no_grad():
        result = module(x)
    layer = network.layers["x"]
    weight = module.weight + (layer.lora_up.flatten(1) @ layer.lora_down.flatten(1)).view_as(module.weight)
    torch.testing.assert_close(result, F.conv2d(x, weight, module.bias, 2, 1), rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("kinds", [("LoRA", "LoRA"), ("LoRA", "LoHa"), ("DoRA", "LoKr")])
def test_loras_of_any_kinds_act_each_on_its_own_samples(kinds: tuple[str, str]) -> None:
    host = FakeHost()
    networks = [make_kind(host, kind, **settings) for kind, settings in zip(kinds, ({}, {"dropout": 0.3}), strict=True)]
    plain = predict(host, batch=5)
    with networks[0].attach(), networks[1].attach():
        parts = slice(0, 2), slice(2, 4)
        for network, part in zip(networks, parts, strict=True):
            network.samples, network.multiplier = part, torch.tensor([0.7, -1.3])
        mixed = predict(host, batch=5)
        mixed[parts[0]].square().mean().backward()
    assert torch.equal(mixed[4], plain[4]), "nobody's"
    for network, part in zip(networks, parts, strict=True):
        network.samples = None
        with network.attach():
            torch.testing.assert_close(mixed[part], predict(host, batch=2), rtol=1e-5, atol=1e-6)
    assert any(p.grad is not None and p.grad.any() for p in networks[0].parameters())
    assert not any(p.grad is not None and p.grad.any() for p in networks[1].parameters())


def test_a_lora_without_samples_in_a_pass_changes_nothing() -> None:
    host = FakeHost()
    network, plain = make(host), predict(host, batch=2)
    network.samples = slice(0, 0)
    with network.attach():
        assert torch.equal(predict(host, batch=2), plain)
