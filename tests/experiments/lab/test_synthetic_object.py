"""The object that the checkpoint has never seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lib_addift.experiments.lab import metrics
from lib_addift.experiments.lab.bench import QUICK, Bench
from lib_addift.experiments.lab.tasks import TASKS
from lib_addift.hosts.standalone import StandaloneHost


def test_the_object_keeps_its_hard_edges_in_the_vae(real_host: StandaloneHost, tmp_path: Path) -> None:
    task = TASKS["ribbon"]
    faces = [replace(face, variation=0) for face in task.new_faces(6, 8)]
    painted = [np.asarray(task.paint(face, shown=True)) for face in faces]
    drawn = Bench(real_host, QUICK, tmp_path).through_vae(painted)
    values = [
        metrics.sharpness(picture, target, task.mark_of(face))
        for face, picture, target in zip(faces, drawn, painted, strict=True)
    ]
    assert np.mean(values) > 0.5
