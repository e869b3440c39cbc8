"""Optimizers by name, and the learning-rate schedule."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError, short_repr

_EXTRA_PACKAGES = ("pytorch_optimizer", "bitsandbytes.optim", "prodigyopt")
_LONGEST_REASON = 150  # characters
_ONE_RATE = ("prodigy", "dadapt")  # they raise when groups have different rates


def make_optimizer(
    config: TrainConfig, parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]], learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer named by `config.optimizer`, in any case of letters. Raises ConfigError when there is none.

    `parameters` may be groups, as `LoraNetwork.parameter_groups` makes them.
    """
    kind = _find_class(config.optimizer)
    if config.lora_plus_ratio != 1 and kind.__name__.lower().startswith(_ONE_RATE):
        raise ConfigError(
            f"optimizer = '{config.optimizer}' finds one learning rate for all parameters, so it cannot work with "
            f"lora_plus_ratio = {config.lora_plus_ratio:g}: set that to 1, or use AdamW."
        )
    arguments = parse_arguments(config.optimizer_args)
    groups = list(parameters)
    try:
        optimizer: torch.optim.Optimizer = kind(
            groups, lr=learning_rate, **_fused(kind, groups, arguments), **arguments
        )
    except Exception as error:  # packages raise errors of their own
        raise ConfigError(
            f"optimizer_args = {short_repr(config.optimizer_args)} does not suit {kind.__name__} ({_reason(error)}): "
            f"it takes {', '.join(list(inspect.signature(kind).parameters)[2:])}."
        ) from error
    return optimizer


def check_optimizer(config: TrainConfig) -> None:
    """Take two real steps on parameters of one element each. Raises ConfigError when they fail or are not finite.

    They are like a LoRA's: one at zero with a gradient, and one that has none as long as the other is zero; matrices,
    and kernels where convolutions learn. On the GPU, if there is one: some optimizers work nowhere else.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_kernels = config.algorithm != "shift" and not {"convolutions", "projections"}.isdisjoint(config.layers)
    shapes = [(1, 1), (1, 1, 1, 1)] if has_kernels else [(1, 1)]
    parameters = [torch.nn.Parameter(torch.full(shape, at, device=device)) for shape in shapes for at in (0.0, 1.0)]
    optimizer = make_optimizer(config, [{"params": parameters, "ratio": 1.0}], config.learning_rate)
    try:
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 0.0 if parameter.item() else 0.1)
            optimizer.step()
    except Exception as error:  # packages raise errors of their own
        raise _unusable(config, f"it fails in its first step ({_reason(error)})") from error
    if not all(parameter.isfinite().all() for parameter in parameters):
        raise _unusable(config, "after its first steps numbers are not finite")


def _unusable(config: TrainConfig, problem: str) -> ConfigError:
    arguments = f" with optimizer_args = {short_repr(config.optimizer_args)}" if config.optimizer_args else ""
    return ConfigError(
        f"optimizer = {short_repr(config.optimizer)}{arguments} cannot train a LoRA: {problem}; "
        "leave the arguments out, or use AdamW."
    )


def _reason(error: Exception) -> str:
    """The first line of an error that a library raised, without its full stop."""
    lines = str(error).splitlines()
    return lines[0].rstrip(".: ")[:_LONGEST_REASON] if lines else type(error).__name__


def _fused(kind: type[Any], groups: Sequence[Any], arguments: Mapping[str, Any]) -> dict[str, bool]:
    """`fused=True` where the class can take a step over all parameters at once here: a LoRA has hundreds of small ones.

    Not every version of torch can on every device.
    """
    if "fused" not in inspect.signature(kind).parameters or not arguments.keys().isdisjoint({"fused", "foreach"}):
        return {}
    first = groups[0]["params"][0] if isinstance(groups[0], dict) else groups[0]
    probe = torch.nn.Parameter(torch.zeros(1, device=first.device))
    probe.grad = torch.zeros_like(probe)
    try:
        kind([probe], lr=0.0, fused=True).step()
    except Exception:  # packages raise errors of their own
        return {}
    return {"fused": True}


def _find_class(name: str) -> type[Any]:
    for module_name in ("torch.optim", *_EXTRA_PACKAGES):
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue
        for attribute, value in vars(module).items():
            is_optimizer = inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
            if is_optimizer and attribute.lower() == name.lower() and value is not torch.optim.Optimizer:
                return value  # type: ignore[no-any-return]
    raise ConfigError(
        f"optimizer = {short_repr(name)} was not found in torch.optim nor in an installed pytorch_optimizer, "
        "bitsandbytes or prodigyopt: use AdamW, or install the package that has it (pip install pytorch_optimizer)."
    )


def parse_arguments(text: str) -> dict[str, Any]:
    """'weight_decay=0.01, betas=(0.9, 0.99)' -> a dict of Python literals. Raises ConfigError."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
            raise ValueError("every argument needs a name")
        return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"optimizer_args = {short_repr(text)} cannot be read ({_reason(error)}): "
            "write it like weight_decay=0.01, betas=(0.9, 0.99)."
        ) from error


def rate_at(step: int, config: TrainConfig, steps: int | None = None) -> float:
    """The share of the learning rate used in optimizer step `step` (from 0) of `steps` (default: the settings')."""
    if step < config.lr_warmup_steps:
        return (step + 1) / (config.lr_warmup_steps + 1)
    if config.lr_schedule == "constant":
        return 1.0
    last = config.max_train_steps if steps is None else steps
    done = (step - config.lr_warmup_steps) / max(1, last - config.lr_warmup_steps)
    left = 1 - done if config.lr_schedule == "linear" else 0.5 + 0.5 * math.cos(math.pi * done)
    return config.lr_end_ratio + (1 - config.lr_end_ratio) * left
