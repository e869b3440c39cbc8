"""The tables of the page."""

from __future__ import annotations

from lib_addift.experiments.lab.summary import Run, summary_of
from lib_addift.experiments.lab.tables import COLUMNS, Column, task_table, variant_table


def row(table: str, name: str) -> dict[str, str]:
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()]
    return dict(zip(lines[0], next(line for line in lines if line[0] == name), strict=True))


def test_a_figure_as_text() -> None:
    assert Column("hits", "hits").text({"hits": 0.956}) == "96"
    assert Column("hits", "hits").text({}) == "-"
    assert Column("x", "x", 1, 1).text({"x": 1.234}) == "1.2"


def test_the_table_of_a_variant(runs: list[Run]) -> None:
    table = task_table(summary_of(runs)["test"]["faces"])
    eyes = row(table, "eyes")
    assert (eyes["good runs, %"], eyes["hits, %"], eyes["worst tenth, %"]) == ("50", "85", "70")
    assert (eyes["short: flips, %"], eyes["short: words flip, %"]) == ("60", "30")
    assert row(table, "style")["short: flips, %"] == "-"
    assert len(eyes) == len(COLUMNS) + 1
    assert row(table, "all")["runs"] == "4"


def test_the_table_of_the_variants(runs: list[Run]) -> None:
    summary = summary_of(runs)
    table = variant_table({"ours": summary["test"]["faces"], **summary["test_variants"]["faces"]})
    assert (row(table, "ours")["false assurance, %"], row(table, "ours")["false alarm, %"]) == ("50", "50")
    assert row(table, "four-pairs")["flips, %"] == "10"
