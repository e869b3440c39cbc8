"""The ways to learn a difference. Each is a module with `phases` and `result`; the loop is the same for all."""

from __future__ import annotations

from typing import cast

from lib_addift.config.settings import TrainConfig
from lib_addift.training.methods import addift, copier, differential, lora, residual, slider
from lib_addift.training.methods.phase import Goal, Method, Phase

_METHODS = {
    "addift": addift,
    "copier": copier,
    "differential": differential,
    "residual": residual,
    "slider": slider,
    "lora": lora,
}

__all__ = ["Goal", "Method", "Phase", "is_simple", "method_of", "total_steps"]


def method_of(config: TrainConfig) -> Method:
    """The method that `config.method` names."""
    return cast(Method, _METHODS[config.method])


def total_steps(config: TrainConfig, pairs: int) -> int:
    """The optimizer steps of all phases, where so many pairs are learnt from."""
    return sum(phase.steps for phase in method_of(config).phases(config, pairs))


def is_simple(config: TrainConfig) -> bool:
    """Whether training teaches one plain LoRA of the UNet, in one phase and with nothing beneath it."""
    first, *others = method_of(config).phases(config, 1)
    return config.is_stackable and not config.train_text_encoder and not others and not first.frozen_loras
