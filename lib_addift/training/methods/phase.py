"""What a method is made of: phases of training, each of which teaches one LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction
from lib_addift.lora.network import LoraNetwork


class Goal(Enum):
    """What the LoRA's prediction for a noisy picture shall become."""

    MODEL = "what the model, without any LoRA, predicts for the pair's other picture under the same noise"
    NOISE = "the noise that was added"


@dataclass(frozen=True)
class Phase:
    """So many steps in which one LoRA learns.

    A turn FORWARD shows it the target, at the multiplier `forward`; a turn REVERSE the original, at `reverse`.
    """

    steps: int
    goal: Goal
    directions: str = "forward"  # as in TrainConfig; with "forward" only `first_direction` is shown
    first_direction: Direction = Direction.FORWARD
    forward: float = 1.0
    reverse: float = 1.0
    network: int = 0  # the LoRA that learns
    frozen_loras: tuple[int, ...] = ()  # LoRAs that act meanwhile, at weight 1, as if they were merged into the model
    pairs: tuple[int, ...] = ()  # the pairs that it learns from; () = all

    def multiplier(self, direction: Direction) -> float:
        return self.forward if direction is Direction.FORWARD else self.reverse


class Method(Protocol):
    """A way to learn a difference: a module of this package."""

    def phases(self, config: TrainConfig, pairs: int) -> tuple[Phase, ...]:
        """The parts of training on so many pairs, in order."""
        ...

    def result(self, networks: Sequence[LoraNetwork]) -> LoraNetwork:
        """The LoRA of the difference, out of those that the phases have taught."""
        ...


def first_steps(config: TrainConfig) -> int:
    """The steps of a first LoRA, where a method has one: as asked, or as many as the second's."""
    return config.first_train_steps or config.max_train_steps
