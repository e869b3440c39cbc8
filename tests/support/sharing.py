"""Jobs that share their passes, and a process that does them until it is killed.

Arguments of the program: the store's folder and the LoRA folder. It writes a line when all jobs are in the queue.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lib_addift.diffusion.conditions import Conditions
from lib_addift.jobs.local_runner import LocalRunner
from lib_addift.jobs.queue import Job, Jobs
from lib_addift.jobs.store import JobStore
from tests.support.jobs import PATIENCE, WatchedHost, request
from tests.support.training import skip_evaluation

# (name, settings) in the queue's order: the first three share their passes, then the other two.
JOBS = [
    ("a", {"max_train_steps": 4, "preview_every": 2}),
    ("b", {"max_train_steps": 7, "preview_every": 3, "seed": 1}),
    ("c", {"max_train_steps": 5, "preview_every": 5, "seed": 2}),
    ("d", {"max_train_steps": 4, "preview_every": 2, "seed": 3}),
    ("e", {"max_train_steps": 3, "preview_every": 1, "seed": 4}),
]


class CrowdHost(WatchedHost):
    """What a sample is told depends, by far more than rounding, on how many go through the model with it."""

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        factor = 1 + 0.01 * len(latents) if torch.is_grad_enabled() else 1
        return super().predict_noise(latents, timesteps, cond) * factor


def runner() -> LocalRunner:
    return LocalRunner(together=3)


def submit_all(jobs: Jobs) -> list[Job]:
    with jobs.held():
        return [jobs.submit(request(name, save_precision="fp32", **settings)) for name, settings in JOBS]  # type: ignore[arg-type]


def main(folder: Path, lora_dir: Path) -> None:
    torch.set_num_threads(1)
    skip_evaluation(pytest.MonkeyPatch())
    jobs = Jobs(CrowdHost(lora_dir), JobStore(folder), runner())
    if not jobs.all():
        submit_all(jobs)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    jobs.start()
    for job in jobs.all():
        jobs.wait(job.id, 10 * PATIENCE)
    jobs.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
