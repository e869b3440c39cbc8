"""Pictures before training: the same for all methods and sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.faces import FACES
from tests.support.fake_host import FakeHost
from tests.support.lab import FACES_TASKS, SMALL

EYES = FACES_TASKS["eyes"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(FACES, FakeHost(tmp_path), SMALL, tmp_path)


def test_pictures_without_a_lora_are_drawn_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = bench.base(["a", "b"], 1)
    assert (drawn == bench.draw(["a", "b"], 1)).all()
    monkeypatch.setattr(bench.host, "predict_noise", None)
    assert (bench.base(["a", "b"], 1) == drawn).all()
    for other in (["a", "c"], 1), (["a", "b"], 2):
        with pytest.raises(TypeError):
            bench.base(*other)


def test_each_face_has_its_noise_however_many_are_drawn(bench: Bench) -> None:
    """So that effects at one weight can be compared with those at another."""
    prompts = [EYES.prompt(subject) for subject in EYES.new_subjects(1, 5)]
    whole = bench.draw(prompts, 1)
    assert (whole[:2] == bench.draw(prompts[:2], 1)).all()
    assert (whole[[1, 4]] == bench.draw([prompts[1], prompts[4]], 1, numbers=[1, 4])).all()
    assert (whole != bench.draw(prompts, 2)).any()
