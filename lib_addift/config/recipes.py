"""The recipes of a search: the settings that were asked for, and other ways to learn from the same pictures."""

from __future__ import annotations

from dataclasses import replace

from lib_addift.config.presets import DEFAULT_PRESET, LAYERS_PRESET, PRESETS
from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig

_OTHER_RATE = 3.0  # times the rate of the settings
# Source: sd-webui-traintrain, where a LoRA learns unless it is told otherwise.
_PUBLISHED = ("self_attention", "cross_attention", "feed_forward", "projections")
_OF_PICTURES = {"mask", "mirror"}  # set by a preset too, and never by a recipe: all learn from the same


def recipes(config: TrainConfig) -> dict[str, TrainConfig]:
    """The settings of each recipe by its name; the first ones are `config` without the search.

    Those that would be the same as an earlier one are left out.
    """
    own = replace(config, search=False)
    is_shift = own.algorithm == "shift"
    in_layers = _like_preset(own, LAYERS_PRESET) if is_shift else own
    usual = TrainConfig()
    candidates = {
        "your settings": own,
        f"{_OTHER_RATE:g} times the rate": replace(own, learning_rate=min(1.0, _OTHER_RATE * own.learning_rate)),
        "a shift": own if is_shift else _like_preset(own, DEFAULT_PRESET),
        "a LoRA in the output blocks": replace(in_layers, layers=usual.layers, blocks=usual.blocks),
        "a LoRA in the published layers": replace(in_layers, layers=_PUBLISHED, blocks=BLOCKS),
        "a LoRA in all layers": replace(in_layers, layers=LAYER_KINDS, blocks=BLOCKS),
    }
    return {name: each for name, each in candidates.items() if name == _first_name(each, candidates)}


def _like_preset(config: TrainConfig, preset: str) -> TrainConfig:
    """The settings with what a preset sets, but for the pictures; as many steps in proportion to the usual ones."""
    named = {name for settings in PRESETS.values() for name in settings} - _OF_PICTURES
    values = TrainConfig.create(preset).to_dict()
    before = DEFAULT_PRESET if config.algorithm == "shift" else LAYERS_PRESET
    share = config.max_train_steps / TrainConfig.create(before).max_train_steps
    steps = max(1, round(share * values["max_train_steps"]))
    settings = {name: values[name] for name in named}
    return replace(config, **{**settings, "dora": False, "max_train_steps": steps})


def _first_name(config: TrainConfig, candidates: dict[str, TrainConfig]) -> str:
    return next(name for name, other in candidates.items() if other == config)
