"""The settings of a calibration; the calibration itself is in tests/cli/test_lora.py."""

from __future__ import annotations

import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.evaluation.calibrate import suited

SHIFT, LAYERS = ({"addift.config": TrainConfig.create(preset).to_json()} for preset in ("concept", "action"))


@pytest.mark.parametrize(
    ("preset", "file", "like"),
    [
        ("action", SHIFT, "concept"),
        ("concept", LAYERS, "action"),
        ("concept", {}, "action"),
        ("detail", SHIFT, "detail"),
    ],
)
def test_a_file_is_weighed_by_its_kind(preset: str, file: dict[str, str], like: str) -> None:
    found, wanted = suited(TrainConfig.create(preset), file), TrainConfig.create(like)
    assert found.strength == wanted.strength
    assert suited(wanted, file) == wanted or file is SHIFT


def test_what_was_chosen_is_kept() -> None:
    assert suited(TrainConfig.create("concept", strength=0.8), LAYERS).strength == 0.8
