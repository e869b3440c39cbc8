"""The facts of the algorithms."""

from __future__ import annotations

import dataclasses

import pytest

from lib_addift.config.algorithms import ALGORITHMS
from lib_addift.config.settings import TrainConfig


@pytest.mark.parametrize(("is_captioned_set", "limits"), [(False, (0.6, 1.0)), (True, (0.75, 1.0))])
def test_a_shift_is_used_within_limits_of_what_it_was_trained_at(
    is_captioned_set: bool, limits: tuple[float, float]
) -> None:
    config = TrainConfig.create("concept", train_multiplier=0.5)
    least, most = config.kind.weight_limits(0.5, is_captioned_set=is_captioned_set)
    assert (least * config.strength, most * config.strength) == pytest.approx([each * 0.5 for each in limits])


@pytest.mark.parametrize("is_captioned_set", [False, True])
def test_other_kinds_are_used_at_what_the_round_trip_says(is_captioned_set: bool) -> None:
    for name in ("lora", "loha", "lokr"):
        assert ALGORITHMS[name].weight_limits(0.25, is_captioned_set=is_captioned_set) == (0.0, float("inf"))


def test_the_setting_offers_all_of_them() -> None:
    (field,) = (field for field in dataclasses.fields(TrainConfig) if field.name == "algorithm")
    assert field.metadata["choices"] == tuple(ALGORITHMS)
