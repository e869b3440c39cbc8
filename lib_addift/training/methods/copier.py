"""The copier: a first LoRA learns the originals by heart, and a second one, on top of it, the targets.

What both pictures share is in the first, so the second has the difference. Source: sd-webui-traintrain, 'Difference'.
"""

from __future__ import annotations

from collections.abc import Sequence

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.methods.phase import Goal, Phase, first_steps

_FIRST, _SECOND = range(2)


def phases(config: TrainConfig, pairs: int) -> tuple[Phase, ...]:
    """The originals, unless a first LoRA is there already; then the targets."""
    second = Phase(config.max_train_steps, Goal.NOISE, network=_SECOND, frozen_loras=(_FIRST,))
    if config.first_lora:
        return (second,)
    return Phase(first_steps(config), Goal.NOISE, first_direction=Direction.REVERSE, network=_FIRST), second


def result(networks: Sequence[LoraNetwork]) -> LoraNetwork:
    return networks[_SECOND]
