"""Tasks read what they paint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFilter

from lib_addift.demo import world
from lib_addift.demo.evaluate import evaluation_faces
from lib_addift.experiments.lab import metrics
from lib_addift.experiments.lab.bench import QUICK, Bench
from lib_addift.experiments.lab.tasks import TASKS, LabTask
from lib_addift.hosts.standalone import StandaloneHost
from tests.support.lab import EACH_TASK


@EACH_TASK
def test_a_task_reads_what_it_paints_and_changes_nothing_else(task: LabTask) -> None:
    for face in task.new_faces(1, 40):
        for is_shown in (False, True):
            picture = np.asarray(task.paint(face, shown=is_shown))
            assert task.is_hit(picture) is is_shown
        before, after = (world.detect(task.paint(face, shown=is_shown)) for is_shown in (False, True))
        assert all(before[name] == after[name] for name in task.others)


@EACH_TASK
def test_a_task_reads_noisy_and_soft_pictures(task: LabTask) -> None:
    rng = np.random.default_rng(0)
    for face in task.new_faces(2, 20):
        for is_shown in (False, True):
            soft = task.paint(face, shown=is_shown).filter(ImageFilter.GaussianBlur(0.6))
            noisy = (np.asarray(soft) + rng.normal(0, 6, size=(64, 64, 3))).clip(0, 255)
            assert task.is_hit(noisy) is is_shown


@EACH_TASK
def test_the_area_holds_the_whole_difference(task: LabTask) -> None:
    for face in task.new_faces(3, 10):
        original, target = (np.asarray(task.paint(face, shown=s), dtype=float) for s in (False, True))
        area = task.area(face)
        assert not np.abs(target - original)[~area].any()
        assert 0 < area.mean() < 1


@EACH_TASK
def test_the_mark_stands_in_the_area_and_out_from_its_surroundings(task: LabTask) -> None:
    for any_face in task.new_faces(4, 10):
        face = replace(any_face, variation=0, eyes="open", mouth="smiling", hair="black")
        mark = task.mark_of(face)
        assert 20 < mark.sum() < 0.5 * mark.size
        assert task.area(face)[mark].all() or task.name == "position", "the head also covers what does not change"
        without, target = (np.asarray(task.paint(face, shown=is_shown)) for is_shown in (False, True))
        assert metrics.contrast(target, target, mark) == pytest.approx(1)
        assert metrics.contrast(without, target, mark) < 0.6


@EACH_TASK
def test_training_pairs_differ_by_seed_and_stay_out_of_the_measured_faces(task: LabTask) -> None:
    first, second = task.pairs(1)[0], task.pairs(2)[0]
    assert first[0].tobytes() != second[0].tobytes()
    assert first[0].tobytes() == task.pairs(1, 4)[0][0].tobytes()
    assert len({pair[1].tobytes() for pair in task.pairs(1, 4)}) == 4
    for original, target in task.pairs(1, 4):
        assert not task.is_hit(np.asarray(original))
        assert task.is_hit(np.asarray(target))
    readings = [world.detect(picture) for picture in first]
    assert all(face.attributes() not in readings for face in task.new_faces(1, 200))


def test_the_measured_faces_are_not_the_demos() -> None:
    demos = evaluation_faces(64, 20_000, excluded=())
    assert all(face not in demos for seed in range(1, 6) for face in TASKS["eyes"].new_faces(seed, 64))


def test_prompts_leave_out_what_is_learnt_unless_it_is_asked_in_words() -> None:
    task, face = TASKS["hair"], world.Face(hair="blond")
    assert "hair" not in task.prompt(face)
    assert "blond hair" in task.prompt_in_words(replace(face, hair="red"), shown=True)
    assert "red hair" in task.prompt_in_words(replace(face, hair="red"), shown=False)
    assert "black hair" in task.prompt_in_words(face, shown=False), "the pair's original, where the face has the value"
    assert TASKS["ribbon"].prompt(face) == world.caption(face)


@pytest.mark.slow
@EACH_TASK
def test_tasks_read_their_pictures_through_the_vae(task: LabTask, real_host: StandaloneHost, tmp_path: Path) -> None:
    faces = task.new_faces(5, 24)
    bench = Bench(real_host, QUICK, tmp_path)
    original, target = (
        bench.through_vae([np.asarray(task.paint(face, shown=s)) for face in faces]) for s in (False, True)
    )
    assert metrics.share([task.is_hit(picture) for picture in target]) == 1
    assert metrics.share([task.is_hit(picture) for picture in original]) <= 0.05
    levels = [np.array([task.level(picture) for picture in batch]) for batch in (original, target)]
    assert levels[1].min() > levels[0].max() or task.name == "hair", "hair has other colours than two"
