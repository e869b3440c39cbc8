"""A process that does the jobs of a store, slowly, until a test ends it or none is left.

Arguments: the store's folder, the LoRA folder, the seconds that a step takes, and the names of jobs to be submitted.
Writes a line for every step of every job to the file `trail` in the store's folder: process, step and total.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from lib_addift.jobs.queue import Jobs
from lib_addift.jobs.store import JobStore
from tests.support.fake_host import FakeHost
from tests.support.jobs import request

STEPS = 6


class SlowHost(FakeHost):
    """Takes its time for each step, and leaves a trail."""

    trail: Path
    seconds: float

    def report(self, text: str, done: int, total: int) -> None:
        if "step" in text:
            with self.trail.open("a", encoding="utf-8") as trail:
                trail.write(f"{os.getpid()} {done} {total}\n")
            time.sleep(self.seconds)


def main(folder: Path, lora_dir: Path, seconds: float, names: list[str]) -> None:
    torch.set_num_threads(1)
    host = SlowHost(lora_dir)
    host.trail, host.seconds = folder / "trail", seconds
    jobs = Jobs(host, JobStore(folder))
    for name in names:
        jobs.submit(request(name, max_train_steps=STEPS, preview_every=2))
    jobs.start()
    while any(job.is_active for job in jobs.all()):
        time.sleep(0.05)
    jobs.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
