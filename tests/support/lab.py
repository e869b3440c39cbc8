"""Small plans of the laboratory, and results made up for its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lib_addift.experiments.lab.bench import Scale
from lib_addift.experiments.lab.cell import Cell
from lib_addift.experiments.lab.runner import Done, LabPlan, run_plan
from lib_addift.experiments.lab.worlds import TASKS

FACES_TASKS = TASKS["faces"]
EACH_TASK = pytest.mark.parametrize("task", FACES_TASKS.values(), ids=FACES_TASKS)
SMALL = Scale(faces=3, growth_faces=2, sampling_steps=2)


def plan(*variants: str, tasks: tuple[str, ...] = ("eyes",), seeds: tuple[int, ...] = (1,)) -> LabPlan:
    return LabPlan("faces", "tune", tasks, variants, SMALL, seeds)


def run(what: LabPlan, out: Path) -> tuple[list[Done], list[str]]:
    """The results, and the names of what was measured now."""
    told: list[Done] = []
    result = run_plan(what, out, 1, lambda done, _count, _total: told.append(done))
    assert [done.cell for done in told] == [done.cell for done in result]
    return result, [done.cell.name for done in told if done.seconds]


def done(task: str, variant: str, seed: int, **figures: Any) -> Done:
    return Done(
        Cell("faces", task, variant, seed),
        {"base_hits": 0.5, "hits": 1.0, "reverse_hits": 0.0, "flips": 0.0, "said_good": True, **figures},
    )
