"""The facts of the algorithms."""

from __future__ import annotations

import dataclasses

from lib_addift.config.algorithms import ALGORITHMS
from lib_addift.config.settings import TrainConfig


def test_a_shift_is_used_at_three_quarters_of_what_it_was_trained_at() -> None:
    config = TrainConfig.create("concept")
    assert config.kind.weight == 0.75
    assert config.strength == 1


def test_other_kinds_are_used_at_what_the_round_trip_says() -> None:
    for name in ("lora", "loha", "lokr"):
        assert ALGORITHMS[name].weight is None


def test_the_setting_offers_all_of_them() -> None:
    (field,) = (field for field in dataclasses.fields(TrainConfig) if field.name == "algorithm")
    assert field.metadata["choices"] == tuple(ALGORITHMS)
