"""Small plans of the laboratory, and results made up for its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lib_addift.experiments.lab.bench import Scale
from lib_addift.experiments.lab.cell import Cell
from lib_addift.experiments.lab.runner import Done, LabPlan, run_plan
from lib_addift.experiments.lab.tasks import TASKS

EACH_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
SMALL = Scale(faces=3, growth_faces=2, probe_faces=2, sampling_steps=1)


def plan(*variants: str, tasks: tuple[str, ...] = ("eyes",), seeds: tuple[int, ...] = (1,)) -> LabPlan:
    return LabPlan(tasks, variants, seeds, SMALL)


def run(what: LabPlan, out: Path) -> tuple[list[Done], list[str]]:
    """The results, and the names of what was measured now."""
    told: list[Done] = []
    result = run_plan(what, out, 1, lambda done, _count, _total: told.append(done))
    assert [done.work for done in told] == [done.work for done in result]
    return result, [done.work.name for done in told if done.seconds]


def done(task: str, variant: str, seed: int, **figures: Any) -> Done:
    return Done(Cell(task, variant, seed), {"base_hits": 0.5, "hits": 1.0, "reverse_hits": 0.0, **figures})
