"""Summaries of the runs' figures: for each task and row of the table, and over all tasks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lib_addift.experiments.lab import metrics
from lib_addift.experiments.lab.runner import Done

DEFAULT = "ours"  # the row that shows what a person gets who changes nothing
Figures = dict[str, Any]
# Means over the runs; each is left out where no run has it.
_MEANS = (
    "base_hits", "hits", "reverse_hits", "flips", "reverse_flips", "flips_at_2", "short_base_hits", "short_hits",
    "short_flips", "words_short_hits", "words_short_flips", "empty_hits", "empty_flips", "interference",
    "strength_at_half", "strength_at_2", "recovery", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One cell's figures as lab.json keeps them, or why there are none."""

    half: str
    world: str
    task: str
    variant: str
    seed: int
    figures: Figures
    error: str = ""

    @classmethod
    def of(cls, done: Done, half: str) -> Run:
        cell = done.cell
        return cls(half, cell.world, cell.task, cell.variant, cell.seed, done.figures, done.error)


def summarise(runs: Sequence[Run]) -> Figures:
    """The figures of some runs as one: means, the share of good runs, the worst tenth, and the verdicts' errors.

    A run without a result counts as one without hits that was said to be bad.
    """
    failed: Figures = {"hits": 0.0, "flips": 0.0, "said_good": False}
    figures = [failed if run.error else run.figures for run in runs]
    summary: Figures = {"runs": len(runs)}
    summary["good_runs"] = metrics.share([metrics.is_good(each["hits"], each["flips"]) for each in figures])
    summary["worst_tenth"] = metrics.worst_tenth([each["hits"] for each in figures])
    for key in _MEANS:
        values = [each[key] for each in figures if each.get(key) is not None]
        if values:
            summary[key] = statistics.fmean(values)
    said = [each for each in figures if "said_good" in each]
    if said:
        verdicts, hits = [each["said_good"] for each in said], [each["hits"] for each in said]
        summary["said_good"] = metrics.share(verdicts)
        summary["false_assurance"] = metrics.false_assurance(verdicts, hits)
        summary["false_alarm"] = metrics.false_alarm(verdicts, hits)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in summary.items()}


def by_task(runs: Iterable[Run]) -> dict[str, Figures]:
    """A summary for each task, and `all`: the summary of all runs, but for the means that are those of the tasks."""
    rows: dict[str, list[Run]] = {}
    for run in runs:
        rows.setdefault(run.task, []).append(run)
    tasks = {task: summarise(each) for task, each in rows.items()}
    overall = summarise([run for each in rows.values() for run in each])
    for key in ("good_runs", *_MEANS):  # tasks have different numbers of seeds
        values = [each[key] for each in tasks.values() if key in each]
        if values:
            overall[key] = round(statistics.fmean(values), 4)
    return {**tasks, "all": overall}


def summary_of(runs: Sequence[Run]) -> dict[str, Any]:
    """All summaries: HALF.WORLD.TASK of the default, and HALF_variants.WORLD.VARIANT.TASK of the other rows."""
    summary: dict[str, Any] = {}
    for half, world, variant in dict.fromkeys((run.half, run.world, run.variant) for run in runs):
        rows = by_task(run for run in runs if (run.half, run.world, run.variant) == (half, world, variant))
        if variant == DEFAULT:
            summary.setdefault(half, {})[world] = rows
        else:
            summary.setdefault(f"{half}_variants", {}).setdefault(world, {})[variant] = rows
    return summary
