"""The sentence about a LoRA and its level, for each outcome of the round trip and of the new pictures."""

from __future__ import annotations

import dataclasses

import pytest

from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.evaluation.verdict import Level, level_of, verdict

NONE = NewPictures()
TOO_FEW = "For the others train on more pairs, or on one that shows the difference more strongly."


def trip(recovery: float = 0.8, weight: float = 1.0) -> RoundTrip:
    return RoundTrip(recovery, weight, ((weight, recovery),))


def seen(reached: int, spread: int = 0, count: int = 8, weight: float = 1.0) -> NewPictures:
    """`reached` of the pictures show the change, and on `spread` of them other things change."""
    sizes = [1.0] * reached + [0.1] * (count - reached)
    return NewPictures(
        weight, tuple(sizes), (9.0,) * spread + (0.0,) * (count - spread), (1.0,) * count, (0.0,) * count
    )


def test_both_counts_are_said() -> None:
    said = verdict(trip(), seen(7, 3))
    assert said.startswith("On 7 of 8 new pictures it makes your change; on 3 of them other things move too.")
    assert "80% of the difference of its own pair" in said
    assert verdict(trip(), seen(8)).startswith("On 8 of 8 new pictures it makes your change; nothing else moves. ")
    assert "on all of them other things move too." in verdict(trip(), seen(8, 8))


@pytest.mark.parametrize(
    ("new", "level", "remedy"),
    [
        (seen(8), Level.GOOD, ""),
        (seen(8, 8), Level.GOOD, "a lower weight"),
        (seen(3), Level.WEAK, "more pairs"),
        (seen(0), Level.WEAK, "more pairs"),
    ],
)
def test_what_is_not_enough_has_a_remedy(new: NewPictures, level: Level, remedy: str) -> None:
    assert level_of(trip(), new) is level
    said = verdict(trip(), new)
    assert remedy in said
    assert ("more pairs" in said or "lower weight" in said) == bool(remedy)
    assert "did not learn" not in said


@pytest.mark.parametrize(
    ("recovery", "new", "level"),
    [
        (0.1, seen(0), Level.FAILED),
        (0.1, seen(8), Level.GOOD),
        (0.8, seen(0), Level.WEAK),
        (0.1, NONE, Level.FAILED),
        (0.4, NONE, Level.WEAK),
        (0.8, NONE, Level.GOOD),
    ],
)
def test_it_has_failed_only_where_all_that_was_measured_says_so(
    recovery: float, new: NewPictures, level: Level
) -> None:
    assert level_of(trip(recovery), new) is level
    assert ("did not learn" in verdict(trip(recovery), new)) == (level is Level.FAILED)


def test_a_lora_that_was_turned_round_is_said_to_be() -> None:
    said = verdict(trip(0.6, -2.0), seen(8, weight=-2.0))
    assert "turned round" in said
    kept = verdict(trip(0.6, -2.0), seen(8, weight=2.0))
    assert "turned round" not in kept
    assert "at a negative weight" in kept


def test_without_new_pictures_the_round_trip_speaks_alone() -> None:
    assert verdict(trip(), NONE) == trip().verdict
    backwards = verdict(trip(0.6, -2.0), NONE)
    assert "negative weight only" in backwards
    assert "not turned round" in backwards


def test_single_pictures_are_not_measured() -> None:
    assert level_of(RoundTrip.without_pairs(), NONE) is Level.UNMEASURED
    assert "look at the strip" in verdict(RoundTrip.without_pairs(), NONE)


def test_a_figure_that_judges_nothing_is_left_out_beside_new_pictures_and_is_no_verdict_without_them() -> None:
    figure = dataclasses.replace(trip(0.04), is_figure_only=True)
    assert verdict(figure, seen(8)) == "On 8 of 8 new pictures it makes your change; nothing else moves."
    assert level_of(figure, seen(8)) is Level.GOOD
    assert verdict(figure, seen(3)) == f"On 3 of 8 new pictures it makes your change; nothing else moves. {TOO_FEW}"
    assert verdict(figure, seen(1)).startswith("The LoRA did not learn the difference. On 1 of 8 new pictures")
    assert verdict(figure, NONE) == (
        "The LoRA reproduces 4% of the difference of its own pair, which says little of other pictures: have new ones "
        "drawn."
    )
    assert level_of(figure, NONE) is Level.UNMEASURED
