"""The settings: presets, help, bounds, and what does not go together."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from lib_addift.config.presets import PRESETS
from lib_addift.config.settings import METHODS, TrainConfig
from lib_addift.errors import ConfigError
from lib_addift.training import methods
from lib_addift.training.methods import from_mapping, make_config


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_round_trip_through_json(preset: str) -> None:
    config = TrainConfig.create(preset)
    assert from_mapping(json.loads(config.to_json())) == config


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda f: f.name)
def test_every_setting_has_label_help_and_bounds(field: dataclasses.Field) -> None:
    assert field.metadata["label"]
    assert field.metadata["help"].endswith((".", ")"))
    if field.type in ("int", "float"):
        low, high = field.metadata["low"], field.metadata["high"]
        for outside in (low - 1, high + high):
            with pytest.raises(ConfigError, match=field.name):
                TrainConfig.create(**{field.name: outside})


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="action, style, detail"):
        TrainConfig.create("portrait")


def test_the_choices_of_method_are_the_modules() -> None:
    assert tuple(methods.METHODS) == METHODS


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dora": True, "algorithm": "loha"}, "dora = true needs algorithm = lora, and it is loha"),
        ({"dora": True, "algorithm": "lokr"}, "dora = true needs algorithm = lora, and it is lokr"),
        ({"dora": True, "result_rank": 2}, "result_rank = 2 cuts ranks away, which a DoRA does not bear"),
        ({"lokr_factor": 0}, "lokr_factor = 0 splits nothing"),
        ({"algorithm": "oft"}, "algorithm = 'oft' is no choice: use one of shift, lora, loha, lokr"),
        ({"dropout": 0.95}, "dropout = 0.95 is out of bounds"),
        ({"lora_plus_ratio": 0.5}, "lora_plus_ratio = 0.5 is out of bounds"),
        ({"method": "residual", "algorithm": "loha"}, "method = residual adds LoRAs up, which algorithm = loha cannot"),
        ({"method": "differential", "dora": True}, "method = differential adds LoRAs up, which dora = true cannot"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config(**settings)
