"""Faces on which the demo's LoRA is measured."""

from __future__ import annotations

from lib_addift.demo.evaluate import evaluation_faces
from lib_addift.demo.run import TASKS


def test_training_faces_stay_out_of_the_evaluation() -> None:
    for task in TASKS.values():
        for face in task.faces(1):
            assert all(
                other.attributes() != face.attributes() for other in evaluation_faces(400, 1, excluded=task.faces(1))
            )
