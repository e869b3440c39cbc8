"""LoRAs added up, and which can be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError
from lib_addift.lora.network import LoraNetwork, combine
from lib_addift.training.joint import can_share
from tests.support.lora_layers import KINDS, make, make_input, make_layer, through


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
