"""Summaries of the cells' figures: mean and spread over seeds, and the tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lib_addift.experiments.lab.cell import ENOUGH, Cell
from lib_addift.experiments.lab.runner import Done
from lib_addift.experiments.lab.together import Couple

Values = list[float]
_NONE = "-"  # a table cell without a value


@dataclass(frozen=True)
class Column:
    """A metric and its column in the tables."""

    key: str
    title: str
    factor: float = 1.0  # 100: a share, cell_text in percent
    digits: int = 0
    better: int = 0  # 1: more is better; -1: less is; 0: neither


COLUMNS = (
    Column("base_hits", "without LoRA, %", 100),
    Column("hits", "at 1, %", 100, better=1),
    Column("reverse_hits", "at -1, %", 100, better=-1),
    Column("flips", "flips, %", 100, better=-1),
    Column("flips_at_2", "flips at 2, %", 100, better=-1),
    Column("interference", "interference", 1, 1, better=-1),
    Column("monotony", "monotone, %", 100, better=1),
    Column("linearity", "linear", 1, 2),
    Column("recovery", "recovery, %", 100, better=1),
    Column("contrast", "contrast, %", 100),
    Column("sharpness", "sharpness, %", 100),
    Column("steps_to_90", "steps to 90 %", 1, 0, better=-1),
    Column("seconds_to_90", "seconds to 90 %", 1, 1, better=-1),
)
_REACHED = ("steps_to_90", "seconds_to_90")


class Summary:
    """The figures of each task and variant, one dictionary for each seed."""

    def __init__(self, done: Iterable[Done]) -> None:
        self.cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.couples: dict[str, list[dict[str, Any]]] = {}
        self.errors: dict[str, str] = {}
        self.seeds: set[int] = set()
        for each in done:
            self.seeds.add(each.work.seed)
            if each.error:
                self.errors[each.work.name] = each.error
            elif isinstance(each.work, Couple):
                self.couples.setdefault(each.work.variant, []).append(each.figures)
            elif isinstance(each.work, Cell):
                self.cells.setdefault(each.work.task, {}).setdefault(each.work.variant, []).append(each.figures)

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(variant for rows in self.cells.values() for variant in rows))

    def values(self, task: str, variant: str, key: str) -> Values:
        """A metric's values, one for each seed that has it."""
        rows = self.cells.get(task, {}).get(variant, [])
        return [row[key] for row in rows if row.get(key) is not None]

    def mean(self, task: str, variant: str, key: str) -> float | None:
        values = self.values(task, variant, key)
        return statistics.fmean(values) if values else None

    def over_tasks(self, variant: str, key: str) -> float | None:
        """The mean of the tasks' means."""
        means = [mean for task in self.cells if (mean := self.mean(task, variant, key)) is not None]
        return statistics.fmean(means) if means else None

    def learnt(self, task: str, variant: str) -> bool:
        """Whether the variant's mean share of hits over its seeds reaches ENOUGH."""
        return (self.mean(task, variant, "hits") or 0.0) >= ENOUGH

    def to_dict(self) -> dict[str, Any]:
        return {"cells": self.cells, "couples": self.couples, "errors": self.errors}


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def cell_text(values: Sequence[float], column: Column) -> str:
    """Mean and spread as '97 ± 2'; of a single value '97'; of none a dash."""
    if not values:
        return _NONE
    mean = f"{statistics.fmean(values) * column.factor:.{column.digits}f}"
    return f"{mean} ± {spread(values) * column.factor:.{column.digits}f}" if len(values) > 1 else mean


def task_table(summary: Summary, task: str) -> str:
    """One row for each variant; the best of those that learnt the task in bold."""
    rows = summary.cells[task]
    best = {column.key: _best(summary, task, column) for column in COLUMNS if column.better}
    lines = []
    for variant, seeds in rows.items():
        cells = []
        for column in COLUMNS:
            values = summary.values(task, variant, column.key)
            text = cell_text(values, column)
            if column.key in _REACHED:
                text = _reached(text, values, seeds)
            cells.append(f"**{text}**" if variant in best.get(column.key, ()) else text)
        lines.append([variant, *cells])
    return markdown_table(["method", *(column.title for column in COLUMNS)], lines)


def overall_table(summary: Summary) -> str:
    """One row for each variant: means over all tasks."""
    columns = [column for column in COLUMNS if column.key not in ("base_hits", *_REACHED)]
    lines = []
    for variant in summary.variants:
        tasks = [task for task in summary.cells if variant in summary.cells[task]]
        means = [summary.over_tasks(variant, column.key) for column in columns]
        cells = [cell_text([] if mean is None else [mean], column) for mean, column in zip(means, columns, strict=True)]
        learnt = f"{sum(summary.learnt(task, variant) for task in tasks)} of {len(tasks)}"
        steps = [value for task in tasks for value in summary.values(task, variant, "steps_to_90")]
        seconds = [value for task in tasks for value in summary.values(task, variant, "seconds_to_90")]
        middle = [f"{statistics.median(values):.0f}" if values else _NONE for values in (steps, seconds)]
        lines.append([variant, learnt, *cells, *middle])
    titles = [column.title for column in columns]
    return markdown_table(["method", "tasks learnt", *titles, "steps to 90 %", "seconds to 90 %"], lines)


def couples_table(summary: Summary) -> str:
    """One row for each variant: the share of faces that show each value, and both, with two LoRAs at once."""
    columns = [Column(key, "", 100) for key in ("first_alone", "second_alone", "product", "both")]
    lines = [
        [variant, *(cell_text([row[column.key] for row in rows], column) for column in columns)]
        for variant, rows in summary.couples.items()
    ]
    return markdown_table(["method", "eyes closed, %", "mouth open, %", "product, %", "both, %"], lines)


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _best(summary: Summary, task: str, column: Column) -> list[str]:
    """The variants with the best mean among those that learn the task: one that learns nothing has no side effects."""
    states = [v for v in summary.cells[task] if v != "words" and summary.learnt(task, v)]
    means = {v: column.better * mean for v in states if (mean := summary.mean(task, v, column.key)) is not None}
    return [variant for variant, mean in means.items() if mean == max(means.values())]


def _reached(text: str, values: Sequence[float], seeds: Sequence[Any]) -> str:
    """Append the number of seeds that reached it, where not all did: '41 (3 of 5)'."""
    return f"{text} ({len(values)} of {len(seeds)})" if 0 < len(values) < len(seeds) else text
