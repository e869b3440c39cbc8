"""Sliders from pictures: at weight 1 the LoRA learns to draw the target, at -1 the original, both in one step.

Source: Gandikota et al. 2023, Concept Sliders, section 4.2 (visual concepts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.methods.phase import Goal, Phase, Supports

label = "the method 'slider'"
comment = "method slider"
defaults: Mapping[str, Any] = {"max_train_steps": 100}  # after 100 it disturbs more and more (docs/lab.md)
needs_pairs = True
supports = Supports()


def phases(config: TrainConfig, pairs: int) -> tuple[Phase, ...]:
    """One: the true noise of both pictures."""
    return (Phase(config.max_train_steps, Goal.NOISE, "both", forward=1.0, reverse=-1.0),)


def result(networks: Sequence[LoraNetwork]) -> LoraNetwork:
    return networks[0]
