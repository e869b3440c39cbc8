"""The second world's tasks read what they paint."""

from __future__ import annotations

import numpy as np
import pytest

from lib_addift.experiments.lab.avatars import TASKS
from lib_addift.experiments.lab.tasks import LabTask


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_reads_what_it_paints_and_changes_nothing_else(task: LabTask) -> None:
    pytest.importorskip("resvg_py", reason="paints avatars")
    pytest.importorskip("python_avatars", reason="paints avatars")
    for subject in task.new_subjects(1, 4):
        original, target = (np.asarray(task.paint(subject, shown=shown)) for shown in (False, True))
        before, after = task.world.detect(original), task.world.detect(target)
        assert task.is_hit(after)
        assert not task.is_hit(before)
        assert all(before[name] == after[name] == subject.values[name] for name in task.others)
        assert (task.level(target) > task.level(original)).all()


def test_prompts_name_the_avatars_attributes() -> None:
    task = TASKS["hat"]
    subject = task.new_subjects(1, 1)[0]
    assert "hat" not in task.prompt(subject)
    assert "winter hat" in task.prompt_in_words(subject, shown=True)
    assert "no hat" in task.prompt_in_words(subject, shown=False)
    assert task.with_words("") == "winter hat"
