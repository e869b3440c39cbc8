"""The worker: how it reports, jobs that fail, and who takes over."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lib_addift.files
from lib_addift.errors import (
    OUT_OF_MEMORY,
    AddiftError,
    HostError,
    TrainingError,
)
from lib_addift.jobs.queue import Jobs, JobState
from tests.support.jobs import Gate, WatchedHost, done, ended, loras, only, request, until
from tests.support.models import fingerprint

# One job


def test_the_host_is_told_of_every_step_and_stage(jobs: Jobs, host: WatchedHost) -> None:
    done(jobs)
    assert host.reported == [
        f"Train Difference LoRA: {what}"
        for what in (
            "encoding the pictures",
            *[f"step {step} of 3" for step in (1, 2, 3)],
            "evaluating it: the round trip", "evaluating it: new pictures", "drawing the preview", "saving",
        )
    ]  # fmt: skip


def test_the_worker_is_a_daemon_that_starts_with_the_first_job(jobs: Jobs, gate: Gate) -> None:
    before = set(threading.enumerate())
    with pytest.raises(AddiftError):
        jobs.submit(request("a/b"))
    assert set(threading.enumerate()) == before
    job = jobs.submit(request())
    (worker,) = set(threading.enumerate()) - before
    assert worker.daemon, "or the WebUI could not be closed while a job runs"
    gate.open()
    ended(jobs, job)
    done(jobs, name="second")
    assert set(threading.enumerate()) - before == {worker}


# Failing


@pytest.mark.parametrize("where", ["encoding the pictures", "step 2 of 3", "evaluating it: the round trip"])
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (TrainingError("the gradients went away: raise the rate."), "the gradients went away: raise the rate."),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), OUT_OF_MEMORY),
        (MemoryError(), OUT_OF_MEMORY),
        (ZeroDivisionError("by nought"), "unexpected ZeroDivisionError: by nought. The console has the details."),
    ],
)
def test_a_job_that_fails_says_why_and_the_next_one_runs(
    jobs: Jobs, host: WatchedHost, where: str, error: Exception, sentence: str
) -> None:
    before = fingerprint(host.unet)

    host.fail_at(where, error)
    job = ended(jobs, jobs.submit(request("bad")))
    assert (job.state, job.text, job.error) == (JobState.FAILED, "failed", sentence)
    assert (job.seconds_left, job.results, loras(host), host.users) == (None, [], [], 0)
    assert job.started <= job.finished
    assert fingerprint(host.unet) == before
    host.error = None
    assert done(jobs, name="good").state is JobState.DONE
    assert loras(host) == ["good.safetensors"]


def test_jobs_behind_a_failing_one_run(jobs: Jobs, host: WatchedHost, gate: Gate) -> None:
    bad, good = jobs.submit(request("bad")), jobs.submit(request("good"))
    host.fail_at("step 1 of 3", MemoryError())
    host.at["step 2 of 3"] = lambda: None
    gate.wait()
    predict = host.predict_noise

    def mend(*arguments: torch.Tensor) -> torch.Tensor:
        try:
            return predict(*arguments)
        except MemoryError:
            host.error = None  # only one prediction fails
            raise

    host.predict_noise = mend  # type: ignore[method-assign]
    gate.open()
    assert ended(jobs, good).state is JobState.DONE
    assert (bad.state, bad.error) == (JobState.FAILED, OUT_OF_MEMORY)


def test_an_unexpected_error_goes_to_the_log(jobs: Jobs, host: WatchedHost, caplog: pytest.LogCaptureFixture) -> None:
    host.fail_at("step 1 of 3", KeyError("what"))
    done(jobs)
    (record,) = caplog.records
    assert record.getMessage() == "training 'blink' failed"
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_a_broken_display_ends_the_job_and_leaves_the_model_alone(jobs: Jobs, host: WatchedHost) -> None:
    before = fingerprint(host.unet)

    def broken() -> None:
        raise OSError("no display")

    host.at["step 2 of 3"] = broken
    job = done(jobs)
    assert (job.state, job.step) == (JobState.FAILED, 2)
    assert "OSError: no display" in job.error
    assert host.users == 0, "the model is given back, although the log keeps the error with all its frames"
    assert fingerprint(host.unet) == before
    assert done(jobs).state is JobState.DONE


def test_of_a_long_message_the_first_line_is_told(jobs: Jobs, host: WatchedHost) -> None:
    host.fail_at("step 1 of 3", RuntimeError("CUDA error: unspecified launch failure.\nCompile with x.\n"))
    assert done(jobs).error == (
        "unexpected RuntimeError: CUDA error: unspecified launch failure. The console has the details."
    )


def test_a_job_that_wants_to_end_the_program_ends_alone(jobs: Jobs, host: WatchedHost) -> None:
    host.fail_at("step 1 of 3", SystemExit("bye"))
    job = done(jobs)
    assert (job.state, "SystemExit: bye" in job.error) == (JobState.FAILED, True)
    host.error = None
    assert done(jobs).state is JobState.DONE


def test_a_full_disk_fails_the_job_and_leaves_nothing(
    jobs: Jobs, host: WatchedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file = lib_addift.files._write

    def write(path: Path, data: bytes) -> None:
        if path.parent == host.lora_dir:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_file(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("lib_addift.files._write", write)
        job = done(jobs)
    assert (job.state, job.step, job.results) == (JobState.FAILED, 3, [])
    assert "is full: make room" in job.error
    assert list(host.lora_dir.iterdir()) == []
    assert done(jobs).state is JobState.DONE


def test_another_model_than_at_the_start_is_refused(jobs: Jobs, host: WatchedHost, gate: Gate) -> None:
    first, second = jobs.submit(request("a")), jobs.submit(request("b"))
    gate.wait()
    host.at["saving"] = lambda: setattr(host, "model_title", "other.safetensors")
    gate.open()
    ended(jobs, second)
    assert (first.state, second.state) == (JobState.DONE, JobState.FAILED)
    assert second.error == (
        "the model is now 'other.safetensors' and was 'fake.safetensors' when Train was pressed: "
        "choose the checkpoint you want and press Train again."
    )
    assert (second.step, loras(host)) == (0, ["a.safetensors"])
    assert done(jobs, name="b").state is JobState.DONE
    with pytest.raises(HostError, match="the model is now"):
        list(first.run.keep(3))


# Another process, as another Jobs


def test_when_the_worker_is_closed_another_process_takes_over(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    worker, other = open_jobs(), open_jobs()
    gate = worker.host.at["step 1 of 3"] = Gate()  # type: ignore[attr-defined]
    job = worker.submit(request())
    gate.wait()
    other.start()
    job.halt()
    gate.open()
    worker.close()
    until(lambda: bool(other.all()))
    assert ended(other, only(other)).state is JobState.DONE
