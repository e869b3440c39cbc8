"""Jobs that share their passes, after a crash: with the same jobs as before, from one step, to the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lib_addift.jobs.queue import Job, Jobs, JobState
from lib_addift.training.events import ResumeState
from lib_addift.training.state import StepReport
from tests.support.jobs import PATIENCE, ended, request
from tests.support.sharing import CrowdHost, runner, submit_all
from tests.support.training import skip_evaluation

ROOT = Path(__file__).parents[2]
NEVER = 10**9  # no run has so many events


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


def crash(jobs: Jobs, event: int | tuple[str, int]) -> None:
    """End the process, for all that the disk tells, before an event that is to be written; the thread ends.

    `event` is its number, or a job's name and the step that the event reports.
    """

    class CrashError(BaseException):
        pass

    worker, count = jobs._worker, 0
    handle = worker._handle_event

    def handled(job: Job, said: object) -> None:
        nonlocal count
        count += 1
        step = (job.name, said.step) if isinstance(said, StepReport) else None
        if event == step or (isinstance(event, int) and count >= event):
            raise CrashError
        handle(job, said)  # type: ignore[arg-type]

    worker._handle_event = handled  # type: ignore[method-assign]


def go_on_after_crashes(
    host: CrowdHost, open_jobs: Callable[..., Jobs], crashes: Sequence[int | tuple[str, int]]
) -> dict[str, bytes]:
    """The files of a process that crashes, of one that goes on and crashes too, and of one that comes to the end."""
    jobs = open_jobs(host, runner=runner())
    crash(jobs, crashes[0])
    submit_all(jobs)
    for event in (*crashes[1:], NEVER):
        assert jobs._worker._thread is not None
        jobs._worker._thread.join(PATIENCE)
        jobs._worker._lock.release()
        jobs = open_jobs(host, runner=runner())
        crash(jobs, event)
        jobs.start()
    for job in jobs.all():
        assert ended(jobs, job).state is JobState.DONE, job.error
    return files_of(host.lora_dir)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 50))])
def test_jobs_go_on_with_those_they_shared_passes_with(
    tmp_path: Path, open_jobs: Callable[..., Jobs], expected: dict[str, bytes], seed: int
) -> None:
    chance, host = random.Random(seed), CrowdHost(tmp_path / "lora")
    assert go_on_after_crashes(host, open_jobs, [chance.randrange(1, 60), chance.randrange(1, 40)]) == expected
    assert not list((tmp_path / "store").rglob("checkpoint*")), "nothing is kept of jobs that are done"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("before", [("b", 6), ("e", 3)])
def test_after_two_crashes_in_one_step_jobs_go_on_from_where_all_of_them_stood(
    tmp_path: Path, open_jobs: Callable[..., Jobs], expected: dict[str, bytes], before: tuple[str, int]
) -> None:
    """Both times its partner, 'c' or 'd', has written a resume state of a step that this job has not."""
    host = CrowdHost(tmp_path / "lora")
    assert go_on_after_crashes(host, open_jobs, [before, before]) == expected


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_killed_processes_leave_jobs_that_go_on_together(tmp_path: Path, expected: dict[str, bytes], seed: int) -> None:
    """Two kills at random moments for each seed."""
    chance = random.Random(seed)
    command = [sys.executable, "-m", "tests.support.sharing", str(tmp_path / "store"), str(tmp_path / "lora")]
    for seconds in (chance.uniform(0, 1.5), chance.uniform(0, 1.5), None):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
    assert files_of(tmp_path / "lora") == expected


def test_of_two_resume_states_the_one_that_all_have_is_taken(jobs: Jobs) -> None:
    jobs.pause()
    job = jobs.submit(request())
    jobs.close()  # its thread begins with removing what dead processes left in the jobs' folders
    states = [ResumeState(step, 1.0, {"step": step}) for step in (3, 6, 9)]
    for state in states:
        job.files.put_resume_state(state, keeps_last=True)
    steps = [found and found.step for found in map(job.files.resume_state, (None, 9, 8, 6, 5))]
    assert steps == [9, 9, 6, 6, None]
    job.files.put_resume_state(states[2], keeps_last=True)  # again, after it went back to 6
    assert [found and found.step for found in map(job.files.resume_state, (9, 8))] == [9, 6]
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
