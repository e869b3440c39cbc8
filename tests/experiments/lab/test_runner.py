"""Runs of the laboratory: what is measured is kept, and an interrupted run goes on where it ended."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib_addift.errors import TrainingError
from lib_addift.experiments.lab import runner
from lib_addift.experiments.lab.bench import QUICK, Bench
from lib_addift.experiments.lab.cell import Cell
from lib_addift.experiments.lab.runner import LabPlan, run_plan
from lib_addift.experiments.lab.summary import Summary
from tests.support.lab import SMALL, plan, run


@pytest.mark.slow
def test_what_is_measured_is_kept_and_an_interrupted_run_goes_on(
    fake_host: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = plan("words", "published", "ours")
    measure = runner.measure_cell

    def interrupted(bench: Bench, cell: Cell) -> dict[str, Any]:
        if cell.variant == "ours":
            raise KeyboardInterrupt
        return measure(bench, cell)

    monkeypatch.setattr(runner, "measure_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(what, tmp_path)
    monkeypatch.setattr(runner, "measure_cell", measure)
    first, measured = run(what, tmp_path)
    assert measured == ["eyes_ours_1"]
    again, measured = run(what, tmp_path)
    assert measured == []
    assert [done.figures for done in again] == [done.figures for done in first]


@pytest.mark.slow
def test_a_kept_cell_is_measured_anew_when_it_is_damaged_or_was_asked_otherwise(
    fake_host: None, tmp_path: Path
) -> None:
    run(plan("words", "published"), tmp_path)
    (tmp_path / "cells" / "eyes_words_1.json").write_text('{"asked": ')
    assert run(plan("words", "published"), tmp_path)[1] == ["eyes_words_1"]
    more = replace(plan("words", "published"), scale=replace(SMALL, faces=4))
    assert run(more, tmp_path)[1] == ["eyes_words_1", "eyes_published_1"]
    path = tmp_path / "cells" / "eyes_published_1.json"
    content = json.loads(path.read_text())
    content["asked"]["settings"][0]["rank"] = 5
    path.write_text(json.dumps(content))
    assert run(more, tmp_path)[1] == ["eyes_published_1"]


def test_a_run_without_a_result_is_told_and_the_others_go_on(
    fake_host: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = runner.measure_cell

    def failing(bench: Bench, cell: Cell) -> dict[str, Any]:
        if cell.variant == "published":
            raise TrainingError("training changed nothing.")
        return measure(bench, cell)

    monkeypatch.setattr(runner, "measure_cell", failing)
    done, _ = run(plan("published", "words"), tmp_path)
    assert [each.error for each in done] == ["training changed nothing.", ""]
    assert Summary(done).errors == {"eyes_published_1": "training changed nothing."}


@pytest.mark.slow
def test_the_report_has_all_that_was_measured(fake_host: None, tmp_path: Path) -> None:
    run(plan("words", seeds=(1, 2)), tmp_path)
    run(plan("published", tasks=("eyes", "mouth")), tmp_path)
    found = [done.work.name for done in runner.all_done(SMALL, tmp_path)]
    assert found == ["eyes_words_1", "eyes_published_1", "mouth_published_1", "eyes_words_2", "eyes+mouth_published_1"]
    assert runner.all_done(QUICK, tmp_path) == []


def test_objects_have_no_words() -> None:
    cells = LabPlan(("eyes", "ribbon"), ("words", "ours"), (1,), SMALL).cells
    assert [cell.name for cell in cells] == ["eyes_words_1", "eyes_ours_1", "ribbon_ours_1"]


@pytest.mark.long
@pytest.mark.slow
def test_worker_processes_do_what_one_process_does(tmp_path: Path) -> None:
    what = LabPlan(("eyes", "hair"), ("words",), (1,), replace(SMALL, faces=2))
    several = run_plan(what, tmp_path / "two", 2, lambda *_: None)
    one = run_plan(what, tmp_path / "one", 1, lambda *_: None)
    assert {each.work: each.figures for each in several} == {each.work: each.figures for each in one}
