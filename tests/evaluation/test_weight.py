"""The choice of the weight, with new pictures whose figures are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.evaluation.weight import Choice, choose, without_pictures

Figures = Callable[[float], tuple[int, int]]


class FakePainter:
    """Draws nothing; `figures` has, for the size of a multiplier, how many of 8 pictures are reached and spread."""

    def __init__(self, figures: Figures, *, backwards: bool = False) -> None:
        self._figures, self._sign, self.tried = figures, -1.0 if backwards else 1.0, []

    def look(self, weight: float) -> NewPictures:
        self.tried.append(weight)
        reached, spread = self._figures(abs(weight))
        sizes, spreads = [abs(weight)] * reached + [0.0] * (8 - reached), [9.0] * spread + [0.0] * (8 - spread)
        along = self._sign * (1.0 if weight > 0 else -1.0)
        return NewPictures(weight, tuple(sizes), tuple(spreads), (along,) * 8, (0.0,) * 8)

    def draw(self, new: NewPictures) -> tuple[NewPictures, torch.Tensor]:
        return new, torch.full((3, 8, 4, 2, 2), new.weight)


def chosen(
    figures: Figures, trip: RoundTrip, *, backwards: bool = False, preset: str = "action", **settings: object
) -> tuple[Choice, list[float]]:
    painter = FakePainter(figures, backwards=backwards)
    config = TrainConfig.create(preset, **settings)  # type: ignore[arg-type]
    choice, latents = choose(painter, trip, config)
    assert latents.unique().item() == pytest.approx(choice.weight), (
        "the pictures are those at the weight that was chosen"
    )
    return choice, painter.tried


def trip(recovery: float = 0.8, weight: float = 2.0) -> RoundTrip:
    return RoundTrip(recovery, weight, ((weight, recovery),))


def test_a_weight_that_reaches_all_and_spreads_nowhere_is_kept_without_a_second_look() -> None:
    choice, tried = chosen(lambda _: (8, 0), trip())
    assert (choice.weight, choice.is_calibrated, choice.new.reach, tried) == (2.0, True, 8, [2.0])


def test_a_larger_weight_is_taken_where_it_reaches_more_without_spreading() -> None:
    choice, tried = chosen(lambda weight: (8 if weight > 2 else 3, 0), trip())
    assert tried == [2.0, choice.weight]
    assert 2 < choice.weight <= 4
    assert choice.new.reach == 8


@pytest.mark.parametrize("larger", [(3, 0), (8, 4), (2, 0)])
def test_a_larger_weight_is_left_where_it_reaches_no_more_or_spreads(larger: tuple[int, int]) -> None:
    choice, tried = chosen(lambda weight: larger if weight > 2 else (3, 0), trip())
    assert (choice.weight, choice.new.reach, len(tried)) == (2.0, 3, 2)


def test_a_smaller_weight_is_taken_where_it_spreads_less_and_reaches_as_many() -> None:
    choice, _ = chosen(lambda weight: (8, 6 if weight >= 2 else 1), trip())
    assert 1 <= choice.weight < 2
    assert choice.new.spread == 1


@pytest.mark.parametrize("smaller", [(5, 1), (8, 6)])
def test_a_smaller_weight_is_left_where_it_reaches_fewer_or_helps_nothing(smaller: tuple[int, int]) -> None:
    choice, tried = chosen(lambda weight: (8, 6) if weight >= 2 else smaller, trip())
    assert (choice.weight, len(tried)) == (2.0, 2)


def test_a_smaller_weight_is_not_tried_where_the_change_would_be_smaller_than_the_pairs() -> None:
    choice, tried = chosen(lambda _: (8, 6), trip(weight=1.2))
    assert (choice.weight, tried) == (1.2, [1.2])


@pytest.mark.parametrize(("backwards", "weight"), [(True, -2.0), (False, 2.0)])
def test_it_is_turned_round_only_where_new_pictures_say_so_too(backwards: bool, weight: float) -> None:
    choice, tried = chosen(lambda _: (8, 0), trip(weight=-2.0), backwards=backwards)
    assert (choice.weight, choice.is_calibrated, tried[0], tried[-1]) == (weight, True, 2.0, weight)
    assert choice.new.is_backwards is False


@pytest.mark.parametrize(("weight", "spread"), [(-2.0, 0), (2.0, 6)])
def test_a_shift_is_never_turned_round_nor_made_weaker(weight: float, spread: int) -> None:
    choice, tried = chosen(lambda _: (8, spread), trip(weight=weight), backwards=weight < 0, preset="concept")
    assert choice.weight > 0
    assert tried == [choice.weight]


def test_new_pictures_alone_turn_nothing_round() -> None:
    choice, _ = chosen(lambda _: (8, 0), trip(), backwards=True)
    assert choice.weight == 2.0


def test_what_the_round_trip_did_not_find_is_measured_as_it_was_trained() -> None:
    choice, tried = chosen(lambda _: (8, 0), trip(0.1, 5.0))
    assert (choice.weight, choice.is_calibrated, tried) == (1.0, False, [1.0])


def test_without_calibration_the_weight_is_only_measured() -> None:
    choice, tried = chosen(lambda _: (0, 8), trip(), calibrate=False, strength=3.0)
    assert (choice.weight, choice.is_calibrated, tried) == (3.0, False, [3.0])


def test_strength_is_in_the_weight_that_is_measured() -> None:
    assert chosen(lambda _: (8, 0), trip(), strength=1.5)[1] == [3.0]


@pytest.mark.parametrize(
    ("found", "weight", "is_calibrated"),
    [(trip(), 2.0, True), (trip(weight=-2.0), 1.0, False), (trip(0.1), 1.0, False)],
)
def test_without_pictures_only_a_positive_weight_of_the_round_trip_is_taken(
    found: RoundTrip, weight: float, is_calibrated: bool
) -> None:
    choice = without_pictures(found, TrainConfig.create("action", strength=1.5))
    assert (choice.weight, choice.is_calibrated, choice.new.count) == (1.5 * weight, is_calibrated, 0)


@pytest.mark.parametrize("found", [trip(), trip(0.1), RoundTrip.without_pairs()])
def test_a_shifts_weight_is_fixed_whatever_the_round_trip_says(found: RoundTrip) -> None:
    choice, tried = chosen(lambda _: (8, 0), found, preset="concept", train_multiplier=2.0)
    assert (choice.weight, choice.is_calibrated, tried) == (1.5, False, [1.5])
    assert without_pictures(found, TrainConfig.create("concept")) == Choice(0.75, is_calibrated=False)


def test_strength_is_in_a_shifts_weight_too() -> None:
    assert chosen(lambda _: (8, 0), trip(), preset="concept", strength=2.0)[1] == [1.5]


def test_a_shifts_weight_is_raised_where_new_pictures_ask_for_it() -> None:
    choice, _ = chosen(lambda weight: (8 if weight > 1 else 3, 0), trip(), preset="concept")
    assert (choice.weight, choice.is_calibrated) == (1.125, True)
