"""Optimizers by name, their arguments, and the rates of groups of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError
from lib_addift.training.optimizer import make_optimizer, parse_arguments
from tests.support.lora_layers import make, make_layer


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Adagrad"])
def test_an_optimizer_takes_the_groups_and_norms_do_not_decay(optimizer: str) -> None:
    network = make("dora", make_layer("linear"))
    config = TrainConfig.create("action", optimizer=optimizer, optimizer_args="weight_decay=0.5", lora_plus_ratio=4)
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
    make_optimizer(TrainConfig.create("action", optimizer="prodigy"), parameters, 1.0)
    with pytest.raises(ConfigError, match="lora_plus_ratio = 2: set that to 1"):
        make_optimizer(TrainConfig.create("action", optimizer="prodigy", lora_plus_ratio=2), parameters, 1.0)


def test_optimizers_by_name() -> None:
    import torch

    parameters = [torch.nn.Parameter(torch.zeros(2))]
    config = TrainConfig.create("action", optimizer="adamw", optimizer_args="weight_decay=0.5, betas=(0.8, 0.9)")
    optimizer = make_optimizer(config, parameters, 1e-3)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["weight_decay"] == 0.5
    assert isinstance(make_optimizer(TrainConfig.create("action", optimizer="SGD"), parameters, 1e-3), torch.optim.SGD)
    with pytest.raises(ConfigError, match="pytorch_optimizer"):
        make_optimizer(TrainConfig.create("action", optimizer="Wonder"), parameters, 1e-3)
    with pytest.raises(ConfigError, match="momentum"):
        make_optimizer(TrainConfig.create("action", optimizer="AdamW", optimizer_args="momentum=1"), parameters, 1e-3)


@pytest.mark.skipif(torch.__version__ < "2.4", reason="this torch has no fused optimizer on the CPU")
def test_optimizers_take_all_parameters_in_one_go_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]

    def is_fused(**settings: object) -> bool:
        return bool(make_optimizer(TrainConfig.create("action", **settings), parameters, 1e-3).defaults.get("fused"))

    assert is_fused()
    assert is_fused(optimizer="adam")
    assert not is_fused(optimizer_args="foreach=True")
    assert not is_fused(optimizer="RMSprop")

    def step(_optimizer: object) -> None:
        raise RuntimeError("fused is not supported on this device")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert not is_fused()


@pytest.mark.parametrize("text", ["0.5", "a=", "a=open('x')", "**{}", "a=1) + f(b=2"])
def test_optimizer_arguments_are_literals_only(text: str) -> None:
    with pytest.raises(ConfigError, match="optimizer_args"):
        parse_arguments(text)
