"""Runs of the laboratory: what is measured is kept, and an interrupted run goes on where it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lib_addift.errors import TrainingError
from lib_addift.experiments.lab import runner
from lib_addift.experiments.lab.bench import QUICK, Bench, Scale
from lib_addift.experiments.lab.cell import Cell
from lib_addift.experiments.lab.runner import JOINT, Done, LabPlan, run_plan
from lib_addift.experiments.lab.variants import TABLE
from lib_addift.experiments.lab.worlds import TASKS
from tests.support.lab import SMALL, plan, run


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Nothing is trained or drawn; the list gets the seeds of each training."""
    trained: list[list[int]] = []

    def train_cells(_bench: Bench, cells: Sequence[Cell]) -> Mapping[Cell, Any]:
        trained.append([cell.seed for cell in cells])
        return {cell: TrainingError("nothing.") if cell.variant == "published" else "LoRA" for cell in cells}

    monkeypatch.setattr(runner, "train_cells", train_cells)
    monkeypatch.setattr(runner, "measure_result", lambda _bench, cell, _result: {"hits": cell.seed / 8})
    monkeypatch.setattr(runner, "measure_words", lambda _bench, _cell: {"hits": float("nan")})
    return trained


@pytest.mark.usefixtures("fake_host")
def test_what_is_measured_is_kept_and_an_interrupted_run_goes_on(
    made_up: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = plan("words", "ours", seeds=(1, 2, 3))

    def interrupted(_bench: Bench, cell: Cell, _result: object) -> dict[str, Any]:
        if cell.seed == 2:
            raise KeyboardInterrupt
        return {"hits": cell.seed / 8}

    measure = runner.measure_result
    monkeypatch.setattr(runner, "measure_result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(what, tmp_path)
    monkeypatch.setattr(runner, "measure_result", measure)
    first, measured = run(what, tmp_path)
    assert measured == ["faces_eyes_ours_2", "faces_eyes_ours_3"]
    assert made_up == [[1, 2, 3], [2, 3]], "only what is missing is trained again"
    again, measured = run(what, tmp_path)
    assert measured == []
    assert {done.cell: done.figures for done in again} == {done.cell: done.figures for done in first}
    assert first[0].figures["hits"] is None, "JSON has no NaN"
    assert all("seconds" in done.figures for done in first)


@pytest.mark.usefixtures("fake_host", "made_up")
def test_a_kept_cell_is_measured_anew_when_it_is_damaged_or_was_asked_otherwise(tmp_path: Path) -> None:
    run(plan("words", "ours"), tmp_path)
    (tmp_path / "cells" / "faces_eyes_words_1.json").write_text('{"asked": ')
    assert run(plan("words", "ours"), tmp_path)[1] == ["faces_eyes_words_1"]
    more = replace(plan("words", "ours"), scale=replace(SMALL, faces=4))
    assert sorted(run(more, tmp_path)[1]) == ["faces_eyes_ours_1", "faces_eyes_words_1"]
    path = tmp_path / "cells" / "faces_eyes_ours_1.json"
    content = json.loads(path.read_text())
    content["asked"]["settings"]["rank"] = 5
    path.write_text(json.dumps(content))
    assert run(more, tmp_path)[1] == ["faces_eyes_ours_1"]


@pytest.mark.usefixtures("fake_host", "made_up")
def test_a_run_without_a_result_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    done, _ = run(plan("published", "words"), tmp_path)
    assert [each.error for each in done] == ["nothing.", ""]
    assert [each.error for each in runner.all_done("faces", "tune", SMALL, tmp_path)] == ["", "nothing."]


@pytest.mark.usefixtures("fake_host", "made_up")
def test_the_report_has_all_that_was_measured_in_one_half(tmp_path: Path) -> None:
    run(plan("words", seeds=(1, 2)), tmp_path)
    run(plan("ours", tasks=("eyes", "mouth")), tmp_path)
    run(replace(plan("ours", seeds=(100,)), half="test"), tmp_path)
    found = [done.cell.name for done in runner.all_done("faces", "tune", SMALL, tmp_path)]
    assert found == ["faces_eyes_ours_1", "faces_eyes_words_1", "faces_eyes_words_2", "faces_mouth_ours_1"]
    assert [done.cell.seed for done in runner.all_done("faces", "test", SMALL, tmp_path)] == [100]
    assert runner.all_done("faces", "tune", QUICK, tmp_path) == []


def test_the_table_has_many_seeds_of_three_tasks_and_the_first_seeds_first() -> None:
    whole = LabPlan("faces", "test", tuple(TASKS["faces"]), TABLE, Scale())
    groups = whole.groups
    assert all(len(group) <= JOINT for group in groups)
    assert all(len({(cell.task, cell.variant) for cell in group}) == 1 for group in groups)
    seeds = {task: [c.seed for c in whole.cells if (c.task, c.variant) == (task, "ours")] for task in TASKS["faces"]}
    for task, own in seeds.items():
        assert own == list(range(100, 112 if task in ("eyes", "mouth", "hair") else 104))
    assert len(set(whole.cells)) == len(whole.cells)
    first = len(groups) - 2 * 3 * len(TABLE)  # three tasks have two more groups in each row
    assert {cell.seed for group in groups[:first] for cell in group} == {100, 101, 102, 103}


def test_what_the_model_does_not_know_has_no_words() -> None:
    cells = LabPlan("faces", "tune", ("eyes", "ribbon"), ("words", "from-words-16", "ours"), SMALL, (1,)).cells
    names = [f"{cell.task} {cell.variant}" for cell in cells]
    assert names == ["eyes words", "eyes from-words-16", "eyes ours", "ribbon ours"]


@pytest.mark.long
@pytest.mark.slow
def test_worker_processes_do_what_one_process_does(tmp_path: Path) -> None:
    what = LabPlan("faces", "tune", ("eyes", "hair"), ("words",), replace(SMALL, faces=2), (1,))

    def figures(done: list[Done]) -> dict[Cell, dict[str, Any]]:
        return {each.cell: {**each.figures, "seconds": 0} for each in done}

    several = run_plan(what, tmp_path / "two", 2, lambda *_: None)
    assert figures(several) == figures(run_plan(what, tmp_path / "one", 1, lambda *_: None))
