"""Pictures before training: the same for all methods and sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.tasks import TASKS
from tests.support.fake_host import FakeHost
from tests.support.lab import SMALL, plan, run


@pytest.mark.slow
def test_pictures_of_a_task_and_seed_are_the_same_for_all_methods(fake_host: None, tmp_path: Path) -> None:
    done, _ = run(plan("published", "ours", seeds=(1, 2)), tmp_path)
    base = {(each.work.seed, each.figures["base_hits"]) for each in done}
    assert len(base) == 2
    assert len(list((tmp_path / "scenes").iterdir())) == 2


def test_the_first_faces_are_the_same_however_many_are_drawn(tmp_path: Path) -> None:
    """So that effects at one weight can be compared with those at another."""
    bench = Bench(FakeHost(tmp_path), SMALL, tmp_path)
    prompts = [TASKS["eyes"].prompt(face) for face in TASKS["eyes"].new_faces(1, 5)]
    assert (bench.draw(prompts, 1)[:2] == bench.draw(prompts[:2], 1)).all()
    assert (bench.draw(prompts, 1) != bench.draw(prompts, 2)).any()
