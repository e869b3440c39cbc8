"""ADDifT: with the LoRA the model shall see the other picture of the pair. Source: ADDifT, hako-mikan 2024.

Tens of steps are enough, since the goal has no noise of its own: what the model predicts anyway cancels.
"""

from __future__ import annotations

from collections.abc import Sequence

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.loss import turn_multiplier
from lib_addift.training.methods.phase import Goal, Phase


def phases(config: TrainConfig, pairs: int) -> tuple[Phase, ...]:
    """One: forward and reverse turns, with opposite signs."""
    forward, reverse = (turn_multiplier(direction, config) for direction in Direction)
    first = Direction(config.first_direction)
    return (Phase(config.max_train_steps, Goal.MODEL, config.directions, first, forward=forward, reverse=reverse),)


def result(networks: Sequence[LoraNetwork]) -> LoraNetwork:
    return networks[0]
