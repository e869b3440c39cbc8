"""Means and tables of what was measured."""

from __future__ import annotations

from lib_addift.experiments.lab.summary import (
    COLUMNS,
    Column,
    Summary,
    cell_text,
    couples_table,
    overall_table,
    task_table,
)


def test_mean_and_spread() -> None:
    column = Column("hits", "hits", 100)
    assert cell_text([0.9, 1.0], column) == "95 ± 7"
    assert cell_text([0.9], column) == "90"
    assert cell_text([], column) == "-"
    assert cell_text([1.234], Column("x", "x", 1, 1)) == "1.2"


def row(table: str, name: str) -> dict[str, str]:
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    return dict(zip(lines[0], next(line for line in lines if line[0] == name), strict=True))


def test_the_table_of_a_task(summary: Summary) -> None:
    table = task_table(summary, "eyes")
    ours = row(table, "ours")
    assert ours["at 1, %"] == "**100 ± 0**"
    assert row(table, "no-mask")["at 1, %"] == "**100**", "as good"
    assert ours["flips, %"] == "**3 ± 1**", "the published row disturbs less but does not learn it"
    assert ours["steps to 90 %"] == "**20 (1 of 2)**"
    assert ours["contrast, %"] == "80 ± 14"
    assert row(table, "published")["at 1, %"] == "55 ± 7"
    assert row(table, "no-mask")["flips, %"] == "20"
    assert len(ours) == len(COLUMNS) + 1


def test_the_table_of_all_tasks(summary: Summary) -> None:
    table = overall_table(summary)
    assert row(table, "ours")["tasks learnt"] == "1 of 2"
    assert row(table, "ours")["at 1, %"] == "90", "the mean of the tasks' means, whatever the number of seeds"
    assert row(table, "published")["tasks learnt"] == "0 of 1"
    assert row(table, "ours")["steps to 90 %"] == "20"
    assert row(couples_table(summary), "ours")["both, %"] == "40"
