"""What no setting can be is refused in one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError
from lib_addift.training.methods import from_mapping
from tests.support.wrong_values import FIELDS, WRONG, not_handled


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": float("nan")}, "finite"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"max_train_steps": 0}, "from 1 to"),
        ({"max_train_steps": 1.5}, "whole number"),
        ({"rank": True}, "whole number"),
        ({"rank": "four"}, "whole number"),
        ({"loss": "hinge"}, "mse, l1, huber"),
        ({"layers": ()}, "at least one"),
        ({"layers": ("everything",)}, "self_attention"),
        ({"min_timestep": 800, "max_timestep": 700}, "raise max_timestep"),
        ({"mask": "file"}, "mask_file"),
        ({"target_share": -0.5}, "target_share = -0.5"),
        ({"preview_prompt": "{red|blue hair"}, "write alternatives as"),
        ({"lora_rank": 4}, "no setting"),
        ({"calibrate": "yes"}, "true or false"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        TrainConfig.create(**settings)
    assert "\n" not in str(caught.value)
    assert next(iter(settings)).split("_")[0] in str(caught.value)


def test_mirror_may_be_the_switch_that_it_was_in_files_that_exist() -> None:
    assert (TrainConfig.create(mirror=True).mirror, TrainConfig.create(mirror=False).mirror) == ("on", "off")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layers": 5}, "layers = 5 must be a list"),
        ({"layers": None}, "layers = None must be a list"),
        ({"alpha": 10**400}, "alpha is out of bounds"),
        ({"preset": "action"}, "'preset' is no setting"),
        ({"cls": 1}, "'cls' is no setting"),
    ],
)
def test_values_of_a_wrong_kind_get_a_sentence_too(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        TrainConfig.create("action", **settings)


def test_every_setting_of_every_wrong_type_is_accepted_or_refused_in_one_sentence() -> None:
    def read(field: str, value: Any) -> None:
        config = from_mapping({field: value})
        assert from_mapping(json.loads(config.to_json())) == config, "what is accepted is a setting like any other"

    assert list(not_handled(read, [*FIELDS, "preset", "a\0setting", "none\ud800"])) == []
    assert len(FIELDS) * len(WRONG) > 1000
