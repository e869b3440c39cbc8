"""What training costs, counted in passes of one sample through the UNet."""

from __future__ import annotations

from lib_addift.config.recipes import recipes
from lib_addift.config.settings import TrainConfig
from lib_addift.training.methods import Goal, Phase, method_of

_LEARNING = 2.0  # passes that a step costs for each sample: forward, and about as much backward


def learning_passes(config: TrainConfig, pairs: int) -> float:
    """The passes of all training steps, where so many pairs are learnt from; of a search, those of all its recipes."""
    if config.search:
        return sum(learning_passes(recipe, pairs) for recipe in recipes(config).values())
    return sum(_phase_passes(config, phase) for phase in method_of(config).phases(config, pairs))


def _phase_passes(config: TrainConfig, phase: Phase) -> float:
    visits = phase.steps * config.batch_size
    samples = visits * (2 if phase.directions == "both" else 1)
    kept = visits if config.self_regularisation else 0
    asked = kept + (samples if phase.goal is Goal.MODEL else 0)
    return asked + (samples + kept) * _LEARNING
