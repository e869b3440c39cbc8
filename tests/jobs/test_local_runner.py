"""The runner of this process: which jobs it takes together, and what it does when memory is full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import AddiftError
from lib_addift.jobs.local_runner import LocalRunner, room_for
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Snapshot, Stage
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.fake_host import FakeHost
from tests.support.joint import SMALL, start
from tests.support.models import fingerprint


class Queue:
    """Jobs in order, as `Jobs` hands them out."""

    def __init__(self, runs: list[TrainingRun | Exception]) -> None:
        self.jobs = [_Job(run) for run in runs]
        self.left = list(self.jobs)

    def take(self, fits: Callable[[Any], bool]) -> Any:
        job = next(filter(fits, self.left), None)
        if job:
            self.left.remove(job)
        return job


class _Job(SimpleNamespace):
    __hash__, __eq__ = object.__hash__, object.__eq__

    def __init__(self, run: TrainingRun | Exception) -> None:
        super().__init__(
            request=SimpleNamespace(config=TrainConfig.create("action", **SMALL)), id=f"{id(self):x}", partners=(),
            files=SimpleNamespace(has_resume_state=False), total=4,
        )  # fmt: skip
        if isinstance(run, TrainingRun):
            self.request = run.request
        self._run = run
        self.dropped = 0

    def drop_run(self) -> None:
        self.dropped += 1

    @property
    def run(self) -> TrainingRun:
        if isinstance(self._run, Exception):
            raise self._run
        return self._run


def ends(queue: Queue, together: int = 0) -> list[Any]:
    """What was said last of each job."""
    last = {}
    for job, event in LocalRunner(together).run(queue.take):
        assert last.get(job, 0) is not None, "nothing is said of a job after its end"
        last[job] = event
    return [last.get(job) for job in queue.jobs]


@pytest.mark.slow
def test_the_runner_takes_those_that_fit_and_ends_each(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    runs = [start(host, 1), start(host, 2, rank=3), start(host, 3), start(host, 4)]
    queue = Queue([runs[0], AddiftError("taken"), *runs[1:]])
    calls = host.calls
    assert [type(end) for end in ends(queue, together=2)] == [type(None), AddiftError, *[type(None)] * 3]
    assert all(len(run.results) == 1 for run in runs)
    assert host.calls > calls
    assert not queue.left


class SmallHost(FakeHost):
    """Has memory for `room` samples that are learnt from in one pass."""

    room = 3

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        if torch.is_grad_enabled() and len(latents) > self.room:
            raise torch.cuda.OutOfMemoryError("full")
        return super().predict_noise(latents, timesteps, cond)


@pytest.mark.parametrize("settings", [{"batch_size": 4}, {"batch_size": 4, "directions": "alternate", "dropout": 0.0}])
def test_full_memory_makes_passes_smaller_and_the_same_is_learnt(tmp_path: Path, settings: dict[str, Any]) -> None:
    host = SmallHost(tmp_path / "small")
    before = fingerprint(host.unet)
    run, roomy = start(host, 1, **settings), start(FakeHost(tmp_path / "roomy"), 1, **settings)
    reports = [event for event in run.events() if isinstance(event, StepReport)]
    list(roomy.events())
    notes = [report.note for report in reports]
    assert "2 at a time" in notes[0], "8 were too many, and 4, or 4 alone"
    assert notes[1:] == [""] * 3, "it is said once, and tried once"
    ours, theirs = (read_lora(each.results[0].path)[0] for each in (run, roomy))
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=2e-3, atol=1e-5)
    assert fingerprint(host.unet) == before


@pytest.mark.slow
def test_several_learn_in_smaller_passes_when_memory_is_full(tmp_path: Path) -> None:
    runs = [start(SmallHost(tmp_path), seed) for seed in range(5)]
    assert ends(Queue(runs), together=5) == [None] * 5
    assert [run.steps_done for run in runs] == [4] * 5


def test_one_sample_that_is_too_much_is_an_error(tmp_path: Path) -> None:
    host = SmallHost(tmp_path)
    host.room = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(start(host, 1).events())
    assert not any(module._forward_hooks for module in host.unet.modules())


@pytest.mark.slow
def test_runs_whose_pictures_do_not_fit_at_once_are_done_in_halves(tmp_path: Path) -> None:
    class CrowdedHost(FakeHost):
        pictures = 0

        def encode_images(self, images: np.ndarray) -> torch.Tensor:
            self.pictures += 1
            if self.pictures > 4 or images.shape[1] > 64:
                self.pictures = 0
                raise torch.cuda.OutOfMemoryError("full")
            return super().encode_images(images)

    host = CrowdedHost(tmp_path)
    runs = [*(start(host, seed) for seed in range(5)), start(host, 9, size=128)]
    found = ends(Queue(runs), together=5)
    assert [type(end) for end in found] == [*[type(None)] * 5, torch.cuda.OutOfMemoryError]
    assert [[result.steps for result in run.results] for run in runs] == [[4]] * 5 + [[]]


@pytest.mark.slow
def test_a_run_that_goes_on_from_a_checkpoint_gives_the_same_file(tmp_path: Path) -> None:
    """Stopped in the middle of a pass of several, resumed alone from what it said: the bytes of one that went on."""
    for name in ("whole", "first", "second"):
        (tmp_path / name).mkdir()
    settings = {"max_train_steps": 9, "preview_every": 3, "optimizer": "AdamW"}
    whole = start(FakeHost(tmp_path / "whole"), 1, **settings)
    list(whole.events())
    first = start(FakeHost(tmp_path / "first"), 1, **settings)
    kept = [event for event in first.events() if not isinstance(event, (Stage, StepReport, Snapshot))]
    assert [checkpoint.step for checkpoint in kept] == [3, 6, 9]
    for checkpoint in kept:
        host = FakeHost(tmp_path / "second")
        again = TrainingRun(host, first.request, keep_snapshots=True, resume_state=checkpoint)
        steps = [event.step for event in again.events() if isinstance(event, StepReport)]
        assert steps == list(range(checkpoint.step + 1, 10))
        ours, theirs = (run.results[0].path for run in (again, whole))
        assert ours.read_bytes() == theirs.read_bytes()
        ours.unlink()
        for other in (tmp_path / "second").iterdir():
            other.unlink()


def test_room_is_counted_by_samples_and_their_size(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    small, large = room_for(start(host, 1)), room_for(start(host, 2, size=4096))
    assert small == 16
    assert 1 <= large < small
