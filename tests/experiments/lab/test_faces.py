"""The world of faces as the laboratory sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFilter

from lib_addift.experiments.lab.bench import QUICK, Bench
from lib_addift.experiments.lab.faces import FACES, RIBBON
from lib_addift.hosts.standalone import StandaloneHost
from tests.support.lab import FACES_TASKS


def test_the_ribbon_stands_only_where_it_is_painted() -> None:
    for subject in FACES_TASKS["ribbon"].new_subjects(1, 5):
        plain, tied = (np.asarray(FACES.paint(subject.having({RIBBON: value}))) for value in ("none", "there"))
        assert (plain[:48] == tied[:48]).all()
        assert FACES.detect(tied) == {**subject.values, RIBBON: "there"}
        assert FACES.detect(plain)[RIBBON] == "none"


@pytest.mark.slow
def test_the_detectors_read_pictures_through_the_vae(real_host: StandaloneHost, tmp_path: Path) -> None:
    task, bench = FACES_TASKS["ribbon"], Bench(FACES, real_host, QUICK, tmp_path)
    subjects = task.new_subjects(5, 16)
    for shown in (False, True):
        pictures = bench.through_vae([np.asarray(task.paint(subject, shown=shown)) for subject in subjects])
        readings = [FACES.detect(picture) for picture in pictures]
        assert readings == [{**subject.values, RIBBON: "there" if shown else "none"} for subject in subjects]


def test_the_ribbon_is_read_in_noisy_and_soft_pictures() -> None:
    """As the world's own attributes are: tests/demo/test_world.py."""
    rng, task = np.random.default_rng(0), FACES_TASKS["ribbon"]
    for subject in task.new_subjects(2, 10):
        for is_shown in (False, True):
            soft = task.paint(subject, shown=is_shown).filter(ImageFilter.GaussianBlur(0.6))
            noisy = (np.asarray(soft) + rng.normal(0, 6, size=(64, 64, 3))).clip(0, 255)
            assert task.is_hit(FACES.detect(noisy)) is is_shown
