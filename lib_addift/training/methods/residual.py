"""The residual: one LoRA of the targets minus one of the originals, each learnt alone and from the same noise.

The difference of two low-rank matrices has at most the sum of their ranks, so it is exact in a LoRA of twice the rank.
"""

from __future__ import annotations

from collections.abc import Sequence

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction
from lib_addift.lora.network import LoraNetwork, combine
from lib_addift.training.methods.phase import Goal, Phase, first_steps

_ORIGINALS, _TARGETS = range(2)


def phases(config: TrainConfig, pairs: int) -> tuple[Phase, ...]:
    """The originals, unless a LoRA of them is there already; then the targets."""
    targets = Phase(config.max_train_steps, Goal.NOISE, network=_TARGETS)
    if config.first_lora:
        return (targets,)
    return Phase(first_steps(config), Goal.NOISE, first_direction=Direction.REVERSE, network=_ORIGINALS), targets


def result(networks: Sequence[LoraNetwork]) -> LoraNetwork:
    return combine([(networks[_TARGETS], 1.0), (networks[_ORIGINALS], -1.0)])
