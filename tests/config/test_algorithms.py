"""The facts of the algorithms."""

from __future__ import annotations

import dataclasses

import pytest

from lib_addift.config.algorithms import ALGORITHMS
from lib_addift.config.settings import TrainConfig


@pytest.mark.parametrize(("weight", "used"), [(0.1, 0.75), (1.8, 0.9), (-1.8, 0.9), (9.0, 1.0)])
def test_a_shift_is_used_within_limits_of_what_it_was_trained_at(weight: float, used: float) -> None:
    config = TrainConfig.create("concept", train_multiplier=0.5)
    assert config.kind.within(weight * 0.5, 0.5) * config.strength == pytest.approx(used * 0.5)


def test_other_kinds_are_used_at_what_the_round_trip_says() -> None:
    for name in ("lora", "loha", "lokr"):
        assert ALGORITHMS[name].within(-9.0, 0.25) == 9.0
        assert ALGORITHMS[name].within(0.1, 0.25) == 0.1


def test_the_setting_offers_all_of_them() -> None:
    (field,) = (field for field in dataclasses.fields(TrainConfig) if field.name == "algorithm")
    assert field.metadata["choices"] == tuple(ALGORITHMS)
