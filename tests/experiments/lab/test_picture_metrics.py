"""Figures of pictures that are perfect, and of damaged ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lib_addift.experiments.lab.bench import Scene
from lib_addift.experiments.lab.picture_metrics import picture_metrics
from lib_addift.experiments.lab.tasks import TASKS, LabTask
from tests.support.lab import EACH_TASK


@EACH_TASK
def test_a_perfect_result_has_perfect_figures(task: LabTask) -> None:
    faces = [replace(face, variation=0) for face in task.new_faces(7, 12)]
    original, target = (np.stack([np.asarray(task.paint(face, shown=s)) for face in faces]) for s in (False, True))
    half = (original / 2 + target / 2).astype(np.uint8)
    scene = Scene(original, original, target)
    figures = picture_metrics(
        task, faces, scene, {-1.0: original, 0.5: half[:5], 1.0: target, 1.5: target[:5], 2.0: target[:5]}
    )
    assert (figures["base_hits"], figures["hits"], figures["reverse_hits"]) == (0, 1, 0)
    assert figures["flips"] == figures["reverse_flips"] == figures["interference"] == 0
    assert figures["contrast"] == pytest.approx(1)
    assert figures["sharpness"] == pytest.approx(1)
    assert figures["monotony"] == 1
    assert figures["effects"][0] == figures["effects"][1] == 0
    assert figures["effects"][3] == figures["effects"][5] == 1


def test_damage_shows_in_the_figures() -> None:
    task = TASKS["eyes"]
    faces = [replace(face, variation=0, mouth="open", eyes="open") for face in task.new_faces(8, 8)]
    original, target = (np.stack([np.asarray(task.paint(face, shown=s)) for face in faces]) for s in (False, True))
    damaged = np.stack([np.asarray(task.paint(replace(face, mouth="smiling"), shown=True)) for face in faces])
    figures = picture_metrics(task, faces, Scene(original, original, target), {-1.0: original, 1.0: damaged})
    assert figures["flips"] == 1
    assert figures["interference"] > 1
    assert figures["hits"] == 1
    assert "monotony" not in figures, "there is only one weight"
    nothing = picture_metrics(task, faces, Scene(original, original, target), {-1.0: original, 1.0: original})
    assert nothing["hits"] == 0
    assert "contrast" not in nothing, "what is not shown has no edges"
