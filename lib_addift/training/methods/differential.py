"""Differential training in two steps, pair by pair: a preset LoRA has the original, a second one learns the target.

Like the copier, but each pair has LoRAs of its own, and the second ones are averaged: what is particular to one pair is
watered down, what all have in common stays. Source: DiffSynth-Studio, differential LoRA training (`preset_lora_path`).
"""

from __future__ import annotations

from collections.abc import Sequence

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction
from lib_addift.lora.network import LoraNetwork, combine
from lib_addift.training.methods.phase import Goal, Phase, first_steps


def phases(config: TrainConfig, pairs: int) -> tuple[Phase, ...]:
    """Two for each pair: LoRA 2n has pair n's original, and LoRA 2n + 1 its target on top of that."""
    result = []
    for pair in range(pairs):
        first, second = 2 * pair, 2 * pair + 1
        result += [
            Phase(first_steps(config), Goal.NOISE, first_direction=Direction.REVERSE, network=first, pairs=(pair,)),
            Phase(config.max_train_steps, Goal.NOISE, network=second, frozen_loras=(first,), pairs=(pair,)),
        ]
    return tuple(result)


def result(networks: Sequence[LoraNetwork]) -> LoraNetwork:
    """The mean of the second LoRAs."""
    seconds = networks[1::2]
    return combine([(network, 1 / len(seconds)) for network in seconds])
