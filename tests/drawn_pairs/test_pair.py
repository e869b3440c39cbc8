"""The settings of a drawing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import load_source
from lib_addift.drawn_pairs.decode import as_drawn
from lib_addift.drawn_pairs.pair import DrawSettings, check_count
from lib_addift.errors import ConfigError
from tests.support.pictures import changed, scene


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 1}, "steps = 1"),
        ({"steps": 2.5}, "whole number"),
        ({"guidance": float("nan")}, "guidance = nan"),
        ({"guidance": 0.5}, "from 1.0 to 30.0"),
        ({"width": 100}, "multiple of 64"),
        ({"height": 0}, "height = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": True}, "seed = True"),
        ({"blend": "on"}, "auto, off"),
    ],
)
def test_values_that_break_a_rule_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DrawSettings(**settings)


def test_a_trainings_settings_are_taken_over() -> None:
    settings = DrawSettings.of(
        TrainConfig(seed=7, resolution=200, sampling_steps=9, preview_cfg_scale=3.0), blend="off"
    )
    assert settings == DrawSettings(steps=9, guidance=3.0, width=192, height=192, seed=7, blend="off")


@pytest.mark.parametrize("count", [0, -1, 1001, 2.0, True])
def test_a_number_of_pairs_that_cannot_be_is_refused(count: Any) -> None:
    with pytest.raises(ConfigError, match="count"):
        check_count(count)


def test_a_pair_is_trained_on_as_it_was_drawn() -> None:
    pair = as_drawn(scene(128, 64), changed(scene(128, 64), 16, 16, 24), ("a", "b"), 1)
    source = pair.source("first")
    loaded = load_source(source, TrainConfig(mask="off", resolution=512))
    assert np.array_equal(loaded.original, pair.original)
    assert np.array_equal(loaded.target, pair.target)
    assert (source.name, source.original_prompt, source.target_prompt) == ("first", "a", "b")
