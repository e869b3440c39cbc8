"""The tables of the laboratory's page, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lib_addift.experiments.lab.summary import Figures

_NONE = "-"  # a table cell without a value


@dataclass(frozen=True)
class Column:
    """A figure and its column in the tables."""

    key: str
    title: str
    factor: float = 100  # 100: a share, in percent
    digits: int = 0

    def text(self, figures: Figures) -> str:
        """The figure as text; a dash where there is none."""
        value = figures.get(self.key)
        return _NONE if value is None else f"{value * self.factor:.{self.digits}f}"


COLUMNS = (
    Column("runs", "runs", 1),
    Column("good_runs", "good runs, %"),
    Column("base_hits", "without LoRA, %"),
    Column("hits", "hits, %"),
    Column("worst_tenth", "worst tenth, %"),
    Column("reverse_hits", "at -1, %"),
    Column("flips", "flips, %"),
    Column("short_hits", "short: hits, %"),
    Column("short_flips", "short: flips, %"),
    Column("words_short_flips", "short: words flip, %"),
    Column("empty_hits", "empty: hits, %"),
    Column("empty_flips", "empty: flips, %"),
    Column("strength_at_half", "0.5, %"),
    Column("strength_at_2", "2, %"),
    Column("interference", "interference", 1, 1),
    Column("recovery", "recovery, %"),
)
_OVERALL = (
    *COLUMNS,
    Column("false_assurance", "false assurance, %"),
    Column("false_alarm", "false alarm, %"),
    Column("seconds", "seconds", 1),
)


def task_table(tasks: Mapping[str, Figures]) -> str:
    """One row for each task of a variant, and one for all."""
    rows = [[task, *(column.text(figures) for column in COLUMNS)] for task, figures in tasks.items()]
    return markdown_table(["task", *(column.title for column in COLUMNS)], rows)


def variant_table(variants: Mapping[str, Mapping[str, Figures]]) -> str:
    """One row for each variant: all tasks."""
    rows = [[name, *(column.text(tasks["all"]) for column in _OVERALL)] for name, tasks in variants.items()]
    return markdown_table(["row", *(column.title for column in _OVERALL)], rows)


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
