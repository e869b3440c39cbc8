"""Which preset is under settings that name none."""

from __future__ import annotations

from typing import Any

import pytest

from lib_addift.config.presets import DEFAULT_PRESET, LAYERS_PRESET, PRESETS, preset_for
from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError


@pytest.mark.parametrize(
    ("preset", "settings", "expected"),
    [
        ("", {}, DEFAULT_PRESET),
        ("", {"seed": 3, "mask": "off", "blocks": ("OUT",)}, DEFAULT_PRESET),
        ("", {"algorithm": "shift"}, DEFAULT_PRESET),
        ("", {"rank": 8}, LAYERS_PRESET),
        ("", {"algorithm": "loha"}, LAYERS_PRESET),
        ("", {"method": "slider"}, LAYERS_PRESET),
        ("", {"method": "addift"}, DEFAULT_PRESET),
        (DEFAULT_PRESET, {"method": "copier"}, LAYERS_PRESET),
        (DEFAULT_PRESET, {"rank": 8}, DEFAULT_PRESET),  # then the settings say what does not fit
        ("style", {"rank": 8, "method": "copier"}, "style"),
    ],
)
def test_the_preset_that_suits_the_settings(preset: str, settings: dict[str, Any], expected: str) -> None:
    assert preset_for(preset, settings) == expected


def test_the_default_learns_a_shift_and_the_others_do_not() -> None:
    assert {name for name in PRESETS if TrainConfig.create(name).algorithm == "shift"} == {DEFAULT_PRESET}


def test_a_rank_over_the_default_preset_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="rank = 8 .* choose the preset action, style or detail"):
        TrainConfig.create(DEFAULT_PRESET, rank=8)
