"""Jobs that share their passes, after a crash: with the same jobs as before, from one step, to the same bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_addift.diffusion.conditions import Conditions
from lib_addift.jobs.local_runner import LocalRunner
from lib_addift.jobs.queue import Job, Jobs, JobState
from lib_addift.training.events import ResumeState
from tests.support.jobs import PATIENCE, WatchedHost, ended, request
from tests.support.training import skip_evaluation

TOGETHER = 3
NEVER = 10**9  # no run has so many events
# (name, settings): the first three share their passes; the fifth waits for the second group.
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
    return LocalRunner(TOGETHER)


def submit_all(jobs: Jobs) -> list[Job]:
    with jobs.held():
        return [jobs.submit(request(name, save_precision="fp32", **settings)) for name, settings in JOBS]  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.fixture
def expected(tmp_path: Path, open_jobs: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a process that nothing interrupts."""
    skip_evaluation(monkeypatch)
    host = CrowdHost(tmp_path / "expected")
    jobs = open_jobs(host, tmp_path / "whole", runner())
    for job in submit_all(jobs):
        assert ended(jobs, job).state is JobState.DONE
    jobs.close()
    return files_of(host.lora_dir)


def crash(jobs: Jobs, event: int) -> None:
    """End the process, for all that the disk tells, before an event that is to be written; the thread ends."""

    class CrashError(BaseException):
        pass

    worker, count = jobs._worker, 0
    handle = worker._handle_event

    def handled(job: Job, said: object) -> None:
        nonlocal count
        count += 1
        if count >= event:
            raise CrashError
        handle(job, said)  # type: ignore[arg-type]

    worker._handle_event = handled  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("seed", range(6))
def test_jobs_go_on_with_those_they_shared_passes_with(
    tmp_path: Path, open_jobs: Callable[..., Jobs], expected: dict[str, bytes], seed: int
) -> None:
    chance, host = random.Random(seed), CrowdHost(tmp_path / "lora")
    jobs = open_jobs(host, runner=runner())
    crash(jobs, chance.randrange(1, 60))
    submit_all(jobs)
    for event in (chance.randrange(1, 40), NEVER):
        assert jobs._worker._thread is not None
        jobs._worker._thread.join(PATIENCE)
        jobs._worker._lock.release()
        jobs = open_jobs(host, runner=runner())
        crash(jobs, event)
        jobs.start()
    for job in jobs.all():
        assert ended(jobs, job).state is JobState.DONE, job.error
    assert files_of(host.lora_dir) == expected
    assert not list((tmp_path / "store").rglob("checkpoint*")), "nothing is kept of jobs that are done"


def test_of_two_resume_states_the_one_that_all_have_is_taken(jobs: Jobs) -> None:
    jobs.pause()
    job = jobs.submit(request())
    states = [ResumeState(step, 1.0, {"step": step}) for step in (3, 6, 9)]
    for state in states:
        job.files.put_resume_state(state, keeps_last=True)
    steps = [found and found.step for found in map(job.files.resume_state, (None, 9, 8, 6, 5))]
    assert steps == [9, 9, 6, 6, None]
    job.files.forget(steps=False)
    assert not job.files.has_resume_state
    job.files.put_resume_state(states[0])
    job.files.put_resume_state(states[1])
    assert job.files.resume_state(5) is None, "a job that is alone keeps one"


def test_a_group_is_kept_in_the_store_until_a_job_begins_anew(
    tmp_path: Path, open_jobs: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_evaluation(monkeypatch)
    jobs = open_jobs(CrowdHost(tmp_path / "lora"), runner=runner())
    submitted = submit_all(jobs)
    for job in submitted:
        ended(jobs, job)
    jobs.close()
    ids = [job.id for job in submitted]
    again = open_jobs(CrowdHost(tmp_path / "other"), runner=runner())
    assert [job.partners for job in again.all()] == [tuple(ids[:3])] * 3 + [tuple(ids[3:])] * 2
    again.pause()
    assert again.retry(ids[0], from_start=True).partners == ()
