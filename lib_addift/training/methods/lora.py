"""Plain LoRA training on pictures: of a pair only the target counts. Source: Hu et al. 2021; Ho et al. 2020, eq. 14.

It learns all of the picture and not the difference. With captions that say what is not to be learnt, and with
regularisation pictures (Ruiz et al. 2022, section 3.2, prior preservation), it learns less of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.methods.phase import Goal, Phase, Supports

label = "the method 'lora'"
comment = "method lora"
defaults: Mapping[str, Any] = {"max_train_steps": 300}
needs_pairs = False
supports = Supports()


def phases(config: TrainConfig, pairs: int) -> tuple[Phase, ...]:
    """One: the true noise of the targets."""
    return (Phase(config.max_train_steps, Goal.NOISE),)


def result(networks: Sequence[LoraNetwork]) -> LoraNetwork:
    return networks[0]
