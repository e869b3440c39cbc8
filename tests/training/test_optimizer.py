"""Optimizers by name, their arguments, and the rates of groups of parameters."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from torch import nn

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.optimizer import check_optimizer, make_optimizer, parse_arguments
from tests.support.lora_layers import make, make_input, make_layer
from tests.support.wrong_values import sentence_problem


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


CLASSES = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
)
ODD_VALUES = ("True", "1", "None", "'x'", "()", "(0.5,)", "(0, 0)", "-1", "1e400", "[]", "{}", "0")
KNOWN_FAULTS = [
    ("LBFGS", ""),
    ("SparseAdam", ""),
    ("AdamW", "amsgrad=1"),
    ("AdamW", "foreach=True, fused=True"),
    ("AdamW", "differentiable=True"),
    ("AdamW", "eps=0"),
    ("AdamW", "betas=(0.9,)"),
    ("AdamW", "lr=1"),
    ("AdamW", "params=[]"),
    ("AdamW", "weight_decay=1e400"),
]


def train_a_little(config: TrainConfig) -> None:
    """What a run does with the optimizer, on real layers: a matrix and a convolution, of which `up` begins at zero."""
    modules = {"x": make_layer("linear"), "y": make_layer("conv")}
    network = LoraNetwork.create(modules, rank=2, alpha=1.0, seed=0)
    optimizer = make_optimizer(config, network.parameter_groups(), config.learning_rate)
    for _ in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * group["ratio"]
        optimizer.zero_grad(set_to_none=True)
        outputs = [network.layers[name](make_input(module)) for name, module in modules.items()]
        torch.stack([(output - 1).square().mean() for output in outputs]).sum().backward()
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def agrees_with_training(optimizer: str, arguments: str) -> bool:
    """Whether the check accepts it; what it accepts trains, and what it refuses is refused in one sentence."""
    config = TrainConfig.create("action", optimizer=optimizer, optimizer_args=arguments, learning_rate=1e-3)
    try:
        check_optimizer(config)
    except ConfigError as error:
        assert not sentence_problem(str(error))  # noqa: PT017
        return False
    train_a_little(config)
    return True


@pytest.mark.parametrize(("optimizer", "arguments"), KNOWN_FAULTS)
def test_what_would_fail_in_the_first_step_is_refused_before(optimizer: str, arguments: str) -> None:
    assert not agrees_with_training(optimizer, arguments)


@pytest.mark.parametrize("optimizer", CLASSES)
def test_the_check_knows_which_optimizers_can_train(optimizer: str) -> None:
    assert agrees_with_training(optimizer, "") == (optimizer not in ("LBFGS", "SparseAdam", "Muon"))


def test_an_optimizer_of_matrices_alone_suits_layers_without_kernels() -> None:
    if "Muon" not in CLASSES:
        pytest.skip("this torch has no Muon")
    check_optimizer(TrainConfig.create("concept", optimizer="muon"))
    with pytest.raises(ConfigError, match="2D"):
        check_optimizer(TrainConfig.create("action", optimizer="muon"))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", CLASSES)
def test_odd_arguments_train_or_are_refused(optimizer: str) -> None:
    names = list(inspect.signature(getattr(torch.optim, optimizer)).parameters)[2:]
    tried = [agrees_with_training(optimizer, f"{name}={odd}") for name, odd in itertools.product(names, ODD_VALUES)]
    assert any(tried) == (optimizer not in ("LBFGS", "SparseAdam", "Muon"))
    assert not all(tried)


@pytest.mark.parametrize(
    "text", ["{[]: 1}", "a={[]: 1}", "a=" + "(" * 5000, "a=" + "-" * 9000 + "1", "a=" + "9" * 5000, "a=\0", "\udc80=1"]
)
def test_arguments_that_python_cannot_parse_are_refused_in_a_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(text)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["0.5", "a=", "a=open('x')", "**{}", "a=1) + f(b=2"])
def test_optimizer_arguments_are_literals_only(text: str) -> None:
    with pytest.raises(ConfigError, match="optimizer_args"):
        parse_arguments(text)
