"""Means over seeds and tasks, and the verdicts' errors."""

from __future__ import annotations

import pytest

from lib_addift.experiments.lab.summary import Run, summarise, summary_of


def test_the_summary_has_the_default_and_the_other_rows(runs: list[Run]) -> None:
    summary = summary_of(runs)
    assert set(summary) == {"test", "test_variants"}
    assert set(summary["test"]["faces"]) == {"eyes", "style", "all"}
    assert set(summary["test_variants"]["faces"]) == {"four-pairs", "words"}
    eyes = summary["test"]["faces"]["eyes"]
    assert (eyes["runs"], eyes["good_runs"], eyes["hits"], eyes["worst_tenth"]) == (2, 0.5, 0.85, 0.7)
    assert (eyes["flips"], eyes["short_flips"], eyes["words_short_flips"]) == (0.01, 0.6, 0.3)
    assert eyes["reverse_hits"] == 0
    assert summary["test_variants"]["faces"]["four-pairs"]["eyes"]["good_runs"] == 0


def test_the_verdicts_are_counted_over_all_runs(runs: list[Run]) -> None:
    everything = summary_of(runs)["test"]["faces"]["all"]
    assert everything["false_assurance"] == 0.5, "two were said to be good, and one of them hits 70 %"
    assert everything["false_alarm"] == 0.5, "of a good one, and of one that has no result"
    assert everything["runs"] == 4
    assert "false_alarm" not in summary_of(runs)["test_variants"]["faces"]["words"]["all"], "nothing was said of them"


def test_tasks_count_alike_however_many_seeds_they_have(runs: list[Run]) -> None:
    more = [*runs, runs[0], runs[0]]
    summary = summary_of(more)["test"]["faces"]
    assert summary["all"]["hits"] == pytest.approx((summary["eyes"]["hits"] + summary["style"]["hits"]) / 2, abs=1e-4)
    assert summary["all"]["good_runs"] == pytest.approx((0.75 + 0.5) / 2)


def test_a_run_without_a_result_is_a_bad_run(runs: list[Run]) -> None:
    style = summarise([run for run in runs if run.task == "style"])
    assert (style["good_runs"], style["hits"], style["worst_tenth"]) == (0.5, 0.475, 0)


def test_figures_that_no_run_has_are_left_out(runs: list[Run]) -> None:
    assert "short_flips" not in summarise([run for run in runs if run.task == "style"])
