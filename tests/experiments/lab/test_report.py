"""The page and its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lib_addift.experiments.lab import report
from lib_addift.experiments.lab.summary import Run, summary_of
from tests.support.lab import SMALL


def test_the_page_keeps_what_a_person_wrote(runs: list[Run], tmp_path: Path) -> None:
    page = report.write_report(runs, SMALL, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "nothing was learnt." in text
    assert "half `test`" in text
    assert "not been read yet" in text
    kept = report.reading(text)
    page.write_text(text.replace(kept, "Ours *won*."), encoding="utf-8")
    for _ in range(2):
        report.write_report(runs, SMALL, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.count("Ours *won*.") == 1
    assert "not been read yet" not in text
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_the_figures_have_a_summary_and_every_run(runs: list[Run], tmp_path: Path) -> None:
    report.write_report(runs, SMALL, tmp_path)
    figures = json.loads((tmp_path / "lab.json").read_text(encoding="utf-8"))
    assert figures["summary"] == summary_of(runs)
    needed = {"good_runs", "hits", "reverse_hits", "flips", "short_flips", "words_short_flips"}
    assert needed <= set(figures["summary"]["test"]["faces"]["eyes"])
    assert {"false_assurance", "false_alarm"} <= set(figures["summary"]["test"]["faces"]["all"])
    assert [Run(**run) for run in figures["runs"]] == runs
    assert figures["scale"]["faces"] == SMALL.faces


def test_other_worlds_halves_and_rows_are_kept_and_the_same_ones_replaced(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "TASKS", {**report.TASKS, "avatars": report.TASKS["faces"]})
    (tmp_path / "lab.json").write_text('{"cells": {}}')  # of an earlier version
    report.write_report([replace(run, world="avatars") for run in runs], SMALL, tmp_path)
    report.write_report([replace(run, half="tune") for run in runs], SMALL, tmp_path)
    report.write_report(runs, SMALL, tmp_path)
    report.write_report(runs[:1], SMALL, tmp_path)
    summary = json.loads((tmp_path / "lab.json").read_text(encoding="utf-8"))["summary"]
    assert set(summary["test"]) == {"faces", "avatars"}
    assert set(summary["tune"]) == {"faces"}
    assert set(summary["test"]["faces"]) == {"eyes", "all"}
    assert set(summary["test_variants"]["faces"]) == {"four-pairs", "words"}
    assert summary["test"]["avatars"]["eyes"]["runs"] == 2
    text = (tmp_path / "lab.md").read_text(encoding="utf-8")
    assert text.index("faces: half `test`") < text.index("avatars: half `test`")
