"""Optimizers by name, their arguments, and the rates of groups of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError
from lib_addift.training.optimizer import make_optimizer
from tests.support.lora_layers import make, make_layer


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
