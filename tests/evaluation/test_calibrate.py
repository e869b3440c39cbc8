"""The settings of a calibration; the calibration itself is in tests/cli/test_lora.py."""

from __future__ import annotations

import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.evaluation.calibrate import suited


@pytest.mark.parametrize(("preset", "strength"), [("concept", 1.0), ("action", 1.0), ("detail", 2.0)])
def test_weight_1_is_the_whole_difference_unless_told_otherwise(preset: str, strength: float) -> None:
    assert suited(TrainConfig.create(preset)).strength == strength


@pytest.mark.parametrize(("preset", "strength"), [("concept", 0.8), ("action", 0.5)])
def test_a_strength_that_was_chosen_is_kept(preset: str, strength: float) -> None:
    assert suited(TrainConfig.create(preset, strength=strength)).strength == strength
