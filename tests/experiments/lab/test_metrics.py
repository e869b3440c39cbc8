"""Measures against known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib_addift.experiments.lab import metrics


def test_share_and_flips_count_faces() -> None:
    assert metrics.share([True, False, True, True]) == 0.75
    assert math.isnan(metrics.share([]))
    before = [{"eyes": "open", "hair": "red"}, {"eyes": "open", "hair": "red"}]
    after = [{"eyes": "closed", "hair": "red"}, {"eyes": "open", "hair": "black"}]
    assert metrics.flips(before, after, ["hair"]) == 0.5
    assert metrics.flips(before, after, ["hair", "eyes"]) == 1.0
    assert metrics.flips(before, after, []) == 0.0


def test_interference_is_the_mean_change_outside_of_the_area() -> None:
    before = np.full((2, 4, 4, 3), 100, dtype=np.uint8)
    after = before.copy()
    after[:, 0, 0] = 255  # inside
    after[0, 3, 3] = [100, 70, 100]  # outside: 30 grey levels in one channel of one pixel
    areas = np.zeros((2, 4, 4), dtype=bool)
    areas[:, :2, :2] = True
    assert metrics.interference(before, after, areas) == pytest.approx(30 / 3 / (2 * 12))
    assert math.isnan(metrics.interference(before, after, np.ones_like(areas)))


def test_effects_are_0_for_the_original_and_1_for_the_target() -> None:
    levels = np.array([[[2.0], [-10.0]], [[6.0], [-20.0]], [[4.0], [-25.0]]])
    assert metrics.effects(levels, levels[0], levels[1]).tolist() == [[0, 0], [1, 1], [0.5, 1.5]]


def test_the_effect_of_a_task_of_several_attributes_is_their_mean() -> None:
    original, target = np.array([[0.0, 100.0]]), np.array([[2.0, 0.0]])
    assert metrics.effects(np.array([[[2.0, 100.0]], [[1.0, 0.0]]]), original, target).tolist() == [[0.5], [0.75]]


def test_strength_is_a_share_of_the_effect_at_weight_1() -> None:
    assert metrics.strength(0.4, 0.8) == 0.5
    assert metrics.strength(0.8, 0.8) == 1
    assert math.isnan(metrics.strength(0.1, 0.1)), "there is no effect to compare with"
    assert math.isnan(metrics.strength(0.4, -0.8))


@pytest.mark.parametrize(
    ("hits", "flips", "good"), [(0.9, 0.05, True), (0.89, 0.0, False), (1.0, 0.06, False), (1.0, 0.0, True)]
)
def test_a_good_run_hits_and_does_not_flip(hits: float, flips: float, good: bool) -> None:
    assert metrics.is_good(hits, flips) is good


def test_the_worst_tenth_is_the_mean_of_the_lowest_runs() -> None:
    assert metrics.worst_tenth([1.0, 0.3, 0.9]) == 0.3
    assert metrics.worst_tenth([1.0] * 10 + [0.2, 0.4]) == pytest.approx(0.3), "two of twelve"
    assert metrics.worst_tenth([1.0] * 9 + [0.2]) == 0.2
    assert math.isnan(metrics.worst_tenth([]))


def test_verdicts_are_counted_against_the_hits() -> None:
    said = [True, True, True, True, False, False]
    hits = [1.0, 0.8, 0.79, 0.9, 0.9, 0.85]
    assert metrics.false_assurance(said, hits) == 0.25
    assert metrics.false_alarm(said, hits) == 0.5
    assert metrics.false_assurance([False], [0.1]) == 0
    assert metrics.false_alarm([True], [1.0]) == 0
