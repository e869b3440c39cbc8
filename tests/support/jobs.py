"""A host that counts its users, a gate that holds a job, and requests for small jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib_addift.config.settings import BLOCKS, TrainConfig
from lib_addift.demo import world
from lib_addift.diffusion.conditions import Conditions
from lib_addift.jobs.queue import Job, Jobs
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
SMALL = {"max_train_steps": 3, "sampling_steps": 1, "rank": 2, "layers": ("convolutions",), "blocks": BLOCKS}
PATIENCE = 30  # seconds, after which a test has failed


class WatchedHost(FakeHost):
    """Counts who uses the model, and does what `at` names when a job reports that text."""

    def __init__(self, lora_dir: Path) -> None:
        super().__init__(lora_dir)
        self.at: dict[str, Callable[[], object]] = {}
        self.error: BaseException | None = None  # raised by the next predictions
        self.uses = self.users = self.most_users = 0
        self._lock = threading.Lock()

    @contextmanager
    def exclusive(self, **_settings: object) -> Iterator[None]:
        with self._lock:
            self.uses, self.users = self.uses + 1, self.users + 1
            self.most_users = max(self.most_users, self.users)
        try:
            yield
        finally:
            with self._lock:
                self.users -= 1

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        assert self.users, "outside of exclusive()"
        if self.error is not None:
            raise self.error
        return super().predict_noise(latents, timesteps, cond)

    def report(self, text: str, done: int, total: int) -> None:
        super().report(text, done, total)
        self.at.pop(text.removeprefix("Train Difference LoRA: "), lambda: None)()

    def fail_at(self, text: str, error: BaseException) -> None:
        """The model is broken from this report on."""
        self.at[text] = lambda: setattr(self, "error", error)


class Gate:
    """Called by the worker: says that it is there, and lets it go on when `open` is called."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE)

    def wait(self) -> None:
        assert self._reached.wait(PATIENCE)

    def open(self) -> None:
        self._open.set()


def request(name: str = "blink", *, overwrite: bool = False, **settings: Any) -> Request:
    return Request.of(ORIGINAL, TARGET, name, TrainConfig.create(**{**SMALL, **settings}), overwrite=overwrite)


def ended(jobs: Jobs, job: Job) -> Job:
    assert jobs.wait(job.id, PATIENCE) is job
    assert not job.is_active, f"'{job.name}' is still {job.state}: {job.text}"
    return job


def loras(host: FakeHost) -> list[str]:
    return sorted(path.name for path in host.lora_dir.glob("*.safetensors"))


def done(jobs: Jobs, **options: Any) -> Job:
    return ended(jobs, jobs.submit(request(**options)))


def stop_at(jobs: Jobs, host: WatchedHost, text: str, *, keep: bool = False) -> None:
    def stop() -> None:
        job = jobs.active()
        assert job is not None
        jobs.stop(job.id, keep=keep)

    host.at[text] = stop


def trained(lora_dir: Path, asked: Request) -> bytes:
    """The file of a run that nothing interrupts."""
    run = TrainingRun(FakeHost(lora_dir), asked, keep_snapshots=True)
    for _ in run.events():
        pass
    return run.results[-1].path.read_bytes()


def only(jobs: Jobs) -> Job:
    (job,) = jobs.all()
    return job


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.02)
