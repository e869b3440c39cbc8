from __future__ import annotations

import errno
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import lib_addift.files
import lib_addift.jobs.job
import lib_addift.jobs.prune
import lib_addift.training.finish
from lib_addift.config.settings import TrainConfig
from lib_addift.errors import (
    OUT_OF_MEMORY,
    AddiftError,
    HostError,
    JobError,
    LoraFileError,
    PictureError,
    TrainingError,
)
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.jobs.local_runner import LocalRunner
from lib_addift.jobs.queue import Job, Jobs, JobState
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Request, Stage
from lib_addift.training.state import StepReport
from tests.support.jobs import ORIGINAL, PATIENCE, Gate, WatchedHost, ended, loras, request
from tests.support.models import fingerprint
from tests.support.training import skip_evaluation


@pytest.fixture
def host(tmp_path: Path) -> WatchedHost:
    return WatchedHost(tmp_path / "lora")


@pytest.fixture
def jobs(host: WatchedHost) -> Jobs:
    return Jobs(host)


@pytest.fixture
def gate(host: WatchedHost) -> Iterator[Gate]:
    """Holds the first job at its first report."""
    gate = host.at["encoding the pictures"] = Gate()
    yield gate
    gate.open()


def done(jobs: Jobs, **options: Any) -> Job:
    return ended(jobs, jobs.submit(request(**options)))


def stop_at(jobs: Jobs, host: WatchedHost, text: str, *, keep: bool = False) -> None:
    def stop() -> None:
        job = jobs.active()
        assert job is not None
        jobs.stop(job.id, keep=keep)

    host.at[text] = stop


# One job


def test_a_job_ends_with_its_lora(jobs: Jobs, host: WatchedHost) -> None:
    before = fingerprint(host.unet)
    job = jobs.submit(request())
    assert (job.name, job.total) == ("blink", 3)
    assert (job.pair.original.shape, job.report) == ((64, 64, 3), job.run.pair_report)
    ended(jobs, job)
    assert (job.state, job.step, job.progress, job.error, job.seconds_left) == (JobState.DONE, 3, 1.0, "", None)
    (result,) = job.results
    assert job.text == result.verdict
    assert result.path == host.lora_dir / "blink.safetensors"
    assert loras(host) == ["blink.safetensors"]
    assert len(job.losses) == 3
    assert job.created <= job.started <= job.finished <= time.time()
    assert fingerprint(host.unet) == before


def test_the_host_is_told_of_every_step_and_stage(jobs: Jobs, host: WatchedHost) -> None:
    done(jobs)
    assert host.reported == [
        f"Train Difference LoRA: {what}"
        for what in (
            "encoding the pictures",
            *[f"step {step} of 3" for step in (1, 2, 3)],
            "proving it: the round trip", "drawing the preview", "saving",
        )
    ]  # fmt: skip


def test_every_visible_change_makes_the_version_grow(jobs: Jobs, host: WatchedHost) -> None:
    seen: list[tuple[int, str]] = []
    host.report = lambda *_: seen.append((jobs.latest().version, jobs.latest().text))  # type: ignore[method-assign]
    job = jobs.submit(request(preview_every=1))
    first = job.version
    ended(jobs, job)
    versions = [version for version, _ in seen]
    assert versions == sorted(set(versions)), "each event is one change at least"
    assert first <= versions[0]
    assert job.version > versions[-1]
    assert [text for _, text in seen][-5:] == ["training", "training", *[text for _, text in seen][-3:]]


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


def clocked(monkeypatch: pytest.MonkeyPatch, times: list[float]) -> None:
    clock = SimpleNamespace(monotonic=iter(times).__next__, time=time.time)
    monkeypatch.setattr(lib_addift.jobs.job, "time", clock)


def test_the_time_left_is_that_of_the_steps_so_far(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.pause()
    job, seen = jobs.submit(request(max_train_steps=4)), []
    clocked(monkeypatch, [100.0, 102.0, 104.0, 107.0])  # the first step, at 100, took long
    for event in [*(StepReport(step, 4, 0.1, 1e-4, 0) for step in range(1, 5)), Stage("saving")]:
        job.record_event(event, lambda *_: seen.append((job.progress, job.seconds_left)))
    assert seen == [(0.25, None), (0.5, 4.0), (0.75, 2.0), (1.0, 0.0), (1.0, None)]


# Many jobs


def test_jobs_run_in_the_order_in_which_they_came_and_one_at_a_time(jobs: Jobs, host: WatchedHost, gate: Gate) -> None:
    first, second, third = (jobs.submit(request(name)) for name in ("b", "c", "a"))
    gate.wait()
    assert [job.state for job in jobs.all()] == [JobState.RUNNING, JobState.QUEUED, JobState.QUEUED]
    assert (second.text, second.started, second.progress) == ("waiting for its turn", None, 0.0)
    assert jobs.all() == [first, second, third]
    assert (jobs.active(), jobs.latest()) == (first, third)
    assert jobs.get(second.id) is second
    gate.open()
    ended(jobs, third)
    assert {job.state for job in jobs.all()} == {JobState.DONE}
    assert first.started <= first.finished <= second.started <= second.finished <= third.started
    assert [path.stem for path in host.refreshed] == ["b", "c", "a"]
    assert host.most_users == 1
    assert (jobs.active(), jobs.latest()) == (None, third)


def test_the_active_job_is_the_one_that_runs(jobs: Jobs, host: WatchedHost) -> None:
    saved = done(jobs, name="a")
    gate = host.at["step 2 of 3"] = Gate()
    running, waiting = jobs.submit(request("b")), jobs.submit(request("c"))
    gate.wait()
    jobs.save_step(saved.id, 3)
    assert saved.is_active
    assert jobs.active() is running
    jobs.stop(waiting.id)
    gate.open()
    ended(jobs, saved)
    assert jobs.active() is None


def test_without_jobs_there_is_none(jobs: Jobs) -> None:
    assert (jobs.all(), jobs.active(), jobs.latest()) == ([], None, None)
    for ask in (jobs.get, jobs.stop, jobs.wait, lambda job_id: jobs.save_step(job_id, 1)):
        with pytest.raises(JobError, match="there is no job 'abc'"):
            ask("abc")


def test_waiting_ends_with_the_timeout_or_with_the_job(jobs: Jobs, gate: Gate) -> None:
    job = jobs.submit(request())
    gate.wait()
    start = time.monotonic()
    assert jobs.wait(job.id, timeout=0.05).state is JobState.RUNNING
    assert jobs.wait(job.id, timeout=0).is_active
    assert 0.05 <= time.monotonic() - start < 5
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(jobs.wait, job.id, PATIENCE) for _ in range(3)]
        gate.open()
        assert [wait.result().state for wait in waits] == [JobState.DONE] * 3
    assert time.monotonic() - start < PATIENCE, "they are told at once"
    assert jobs.wait(job.id).state is JobState.DONE


def test_eight_threads_lose_nothing_and_run_nothing_twice(
    jobs: Jobs, host: WatchedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_evaluation(monkeypatch)
    names = [[f"n{thread}-{number}" for number in range(20)] for thread in range(8)]
    odd = {}  # jobs that were stopped

    def work(thread: int) -> list[Job]:
        chance, mine = random.Random(thread), []
        for name in names[thread]:
            job = jobs.submit(request(name, max_train_steps=1, directions="forward", preview_every=0))
            mine.append(job)
            if chance.random() < 0.5:
                victim = chance.choice(mine)
                odd[victim.id] = victim
                jobs.stop(victim.id, keep=chance.random() < 0.5)
            assert job in jobs.all()
            assert all(0 <= other.progress <= 1 for other in jobs.all())
            assert jobs.get(job.id) is job
            jobs.wait(job.id, 0.001)
        return mine

    with ThreadPoolExecutor(8) as pool:
        everything = [job for mine in pool.map(work, range(8)) for job in mine]
    for job in everything:
        ended(jobs, job)
    assert Counter(jobs.all()) == Counter(everything)
    assert len({job.id for job in everything}) == 160
    assert sorted(job.name for job in everything) == sorted(name for mine in names for name in mine)
    for job in everything:
        assert job.state is JobState.DONE or (job.state is JobState.STOPPED and job.id in odd), job.error
        assert (job.started is None) == (job.text == "stopped before it began")
        assert job.finished
        assert len(job.results) <= 1
        assert (job.state is JobState.DONE) == (f"{job.name}.safetensors" in loras(host))
    written = Counter(result.path for job in everything for result in job.results)
    assert Counter(host.refreshed) == written
    assert max(written.values()) == 1
    assert {path.name for path in written} == set(loras(host))
    assert host.most_users == 1


# What is refused at once


def test_a_taken_or_bad_name_is_refused_and_nothing_is_queued(jobs: Jobs, host: WatchedHost) -> None:
    host.lora_dir.mkdir()
    (host.lora_dir / "Blink.safetensors").write_bytes(b"precious")
    for name, reason in (("blink", "already has 'Blink.safetensors'"), ("a/b", "cannot hold"), ("", "empty")):
        with pytest.raises(LoraFileError, match=reason):
            jobs.submit(request(name))
    assert (jobs.all(), host.uses, host.calls) == ([], 0, 0)
    assert (host.lora_dir / "Blink.safetensors").read_bytes() == b"precious"


def test_identical_pictures_are_refused_and_nothing_is_queued(jobs: Jobs, host: WatchedHost) -> None:
    with pytest.raises(PictureError, match="identical"):
        jobs.submit(Request.of(ORIGINAL, ORIGINAL.copy(), "blink", TrainConfig.create()))
    assert (jobs.all(), host.uses) == ([], 0)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_is_at_work_or_waits_is_refused(jobs: Jobs, gate: Gate, overwrite: bool) -> None:
    running, waiting = jobs.submit(request("Blink")), jobs.submit(request("wink"))
    gate.wait()
    for name in ("blink", "Blink", "WINK"):
        with pytest.raises(JobError, match=f"'{name}' is being trained already"):
            jobs.submit(request(name, overwrite=overwrite))
    assert jobs.all() == [running, waiting]


def test_one_name_that_many_ask_for_at_once_is_given_once(jobs: Jobs, gate: Gate) -> None:
    together = threading.Barrier(8)

    def submit(_: int) -> Job | str:
        together.wait(PATIENCE)
        try:
            return jobs.submit(request(overwrite=True))
        except JobError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(8)))
    assert [answer for answer in answers if isinstance(answer, Job)] == jobs.all()
    assert len(jobs.all()) == 1
    assert sum("is being trained already" in answer for answer in answers if isinstance(answer, str)) == 7


def test_a_name_is_free_again_when_its_job_has_ended(jobs: Jobs, host: WatchedHost) -> None:
    stop_at(jobs, host, "step 1 of 3")
    assert done(jobs).state is JobState.STOPPED
    assert done(jobs).state is JobState.DONE
    with pytest.raises(LoraFileError, match="choose another name or allow overwriting"):
        jobs.submit(request())
    assert done(jobs, overwrite=True).state is JobState.DONE
    assert loras(host) == ["blink.safetensors"]


# Stopping


def test_a_waiting_job_that_is_stopped_never_starts(jobs: Jobs, host: WatchedHost, gate: Gate) -> None:
    first, second, third = (jobs.submit(request(name)) for name in "abc")
    gate.wait()
    version = second.version
    jobs.stop(second.id, keep=True)
    assert (second.state, second.text) == (JobState.STOPPED, "stopped before it began")
    assert not second.is_active
    assert second.version > version
    assert jobs.wait(second.id, 0) is second
    gate.open()
    ended(jobs, third)
    assert (first.state, second.state, third.state) == (JobState.DONE, JobState.STOPPED, JobState.DONE)
    assert (second.started, second.step, second.results) == (None, 0, [])
    assert host.uses == 2
    assert loras(host) == ["a.safetensors", "c.safetensors"]


def test_a_running_job_stops_after_its_step_and_saves_nothing(jobs: Jobs, host: WatchedHost) -> None:
    before = fingerprint(host.unet)
    stop_at(jobs, host, "step 2 of 50")
    job = done(jobs, max_train_steps=50)
    assert (job.state, job.step, job.error) == (JobState.STOPPED, 2, "")
    assert job.text == "stopped after 2 of 50 steps; nothing was saved"
    assert job.progress == 0.04
    assert (job.results, list(host.lora_dir.iterdir())) == ([], [])
    assert host.reported[-1].endswith("step 2 of 50"), "no further step, no proof"
    assert fingerprint(host.unet) == before


def test_a_job_that_is_stopped_and_kept_saves_what_it_learnt(jobs: Jobs, host: WatchedHost) -> None:
    stop_at(jobs, host, "step 2 of 50", keep=True)
    job = done(jobs, max_train_steps=50, save_precision="fp32", calibrate=False, lr_schedule="constant")
    assert (job.state, job.step) == (JobState.STOPPED, 2)
    assert job.text == "stopped after 2 of 50 steps; saved: 'blink-step2'"
    assert loras(host) == ["blink-step2.safetensors"]
    assert [(result.steps, result.tag) for result in job.results] == [(2, "<lora:blink-step2:1>")]
    kept, metadata = read_lora(job.results[0].path)
    assert metadata["ss_steps"] == "2"
    assert all(torch.equal(kept[key], tensor) for key, tensor in job.run.learnt.items())


def test_one_may_decide_to_keep_after_saying_stop_but_not_the_other_way(jobs: Jobs, host: WatchedHost) -> None:
    def stop_twice() -> None:
        job = jobs.active()
        assert job is not None
        jobs.stop(job.id, keep=order.pop(0))
        jobs.stop(job.id, keep=order.pop(0))

    order = [False, True, True, False]
    for name in ("a", "b"):
        host.at["step 1 of 3"] = stop_twice
        assert done(jobs, name=name).state is JobState.STOPPED
    assert loras(host) == ["a-step1.safetensors", "b-step1.safetensors"]


def test_before_the_first_step_there_is_nothing_to_keep(jobs: Jobs, host: WatchedHost) -> None:
    stop_at(jobs, host, "encoding the pictures", keep=True)
    job = done(jobs)
    assert (job.state, job.text, job.error) == (JobState.STOPPED, "stopped after 0 of 3 steps; nothing was saved", "")
    assert (loras(host), job.snapshots) == ([], [])


@pytest.mark.parametrize("where", ["proving it: the round trip", "drawing the preview"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_job_can_be_stopped_while_it_is_proved(jobs: Jobs, host: WatchedHost, where: str, keep: bool) -> None:
    stop_at(jobs, host, where, keep=keep)
    job = done(jobs)
    assert (job.state, job.step) == (JobState.STOPPED, 3)
    assert loras(host) == (["blink-step3.safetensors"] if keep else [])
    saved = "saved: 'blink-step3'" if keep else "nothing was saved"
    assert job.text == f"stopped after 3 of 3 steps; {saved}"


def test_what_was_saved_on_the_way_stays_when_a_job_is_stopped(jobs: Jobs, host: WatchedHost) -> None:
    stop_at(jobs, host, "step 3 of 5")
    job = done(jobs, max_train_steps=5, save_every=2)
    assert (job.state, job.text) == (JobState.STOPPED, "stopped after 3 of 5 steps; saved: 'blink-step2'")
    assert loras(host) == ["blink-step2.safetensors"]


def test_while_it_is_saved_it_is_too_late_to_stop(jobs: Jobs, host: WatchedHost) -> None:
    stop_at(jobs, host, "saving", keep=True)
    job = done(jobs)
    assert job.state is JobState.DONE
    assert loras(host) == ["blink.safetensors"]
    version = job.version
    jobs.stop(job.id)
    assert (job.state, job.version) == (JobState.DONE, version)


def test_a_job_that_waits_for_the_model_can_be_stopped(jobs: Jobs, host: WatchedHost) -> None:
    gate, exclusive = Gate(), host.exclusive

    @contextmanager
    def busy(**settings: object) -> Iterator[None]:
        gate()
        with exclusive(**settings):
            yield

    host.exclusive = busy  # type: ignore[method-assign]
    job = jobs.submit(request())
    gate.wait()
    assert (job.state, job.text) == (JobState.RUNNING, "waiting for the WebUI to finish")
    jobs.stop(job.id)
    gate.open()
    assert ended(jobs, job).state is JobState.STOPPED
    assert (job.step, loras(host)) == (0, [])


# Failing


@pytest.mark.parametrize("where", ["encoding the pictures", "step 2 of 3", "proving it: the round trip"])
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


# Kept steps


def test_a_kept_step_can_be_saved(jobs: Jobs, host: WatchedHost) -> None:
    job = done(jobs, preview_every=1)
    assert [snapshot.step for snapshot in job.snapshots] == [1, 2, 3]
    text, version, finished = job.text, job.version, job.finished
    assert jobs.save_step(job.id, 2) is job
    assert ended(jobs, job).version > version
    assert (job.state, job.text, job.error, job.finished) == (JobState.DONE, text, "", finished)
    assert [result.path.stem for result in job.results] == ["blink", "blink-step2"]
    assert (job.results[1].steps, host.refreshed[-1]) == (2, job.results[1].path)
    assert read_lora(job.results[1].path)[1]["ss_steps"] == "2"
    assert loras(host) == ["blink-step2.safetensors", "blink.safetensors"]


@pytest.mark.parametrize("weight", [0.5, -3.0])
def test_a_saved_step_is_what_was_kept_scaled_by_its_calibration(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: RoundTrip(0.8, weight, ((weight, 0.8),)))
    job = done(jobs, preview_every=1, save_precision="fp32", strength=2.0)
    jobs.save_step(job.id, 2)
    saved = read_lora(ended(jobs, job).results[-1].path)[0]
    kept = job.snapshots[1].tensors
    assert set(saved) == set(kept)
    for key, tensor in saved.items():
        factor = abs(2 * weight) if key.endswith("alpha") else np.sign(weight) if "lora_up" in key else 1
        assert torch.equal(tensor, kept[key] * factor), key
    assert any(not torch.equal(tensor, job.snapshots[2].tensors[key]) for key, tensor in kept.items())


def test_a_step_can_be_saved_while_its_job_runs(jobs: Jobs, host: WatchedHost) -> None:
    gate = host.at["step 3 of 3"] = Gate()
    job = jobs.submit(request(preview_every=1))
    gate.wait()
    jobs.save_step(job.id, 1)
    jobs.save_step(job.id, 2)
    assert (job.state, job.results) == (JobState.RUNNING, [])
    gate.open()
    ended(jobs, job)
    assert job.state is JobState.DONE
    assert [result.path.stem for result in job.results] == ["blink", "blink-step1", "blink-step2"]


def test_steps_of_stopped_and_failed_jobs_can_be_saved(jobs: Jobs, host: WatchedHost) -> None:
    stop_at(jobs, host, "step 2 of 3")
    stopped = done(jobs, name="stopped", preview_every=1)
    host.fail_at("step 2 of 3", MemoryError())
    failed = done(jobs, name="failed", preview_every=1)
    host.error = None
    for job in (stopped, failed):
        state, text, error = job.state, job.text, job.error
        assert [snapshot.step for snapshot in job.snapshots] == [1]
        jobs.save_step(job.id, 1)
        ended(jobs, job)
        assert (job.state, job.text, job.error) == (state, text, error), "why it failed is not forgotten"
        assert [result.path.stem for result in job.results] == [f"{job.name}-step1"]


def test_a_step_that_was_not_kept_is_refused(jobs: Jobs) -> None:
    job, without = done(jobs, max_train_steps=5, preview_every=2), done(jobs, name="without", preview_every=0)
    version = job.version
    with pytest.raises(JobError, match=r"step 3 of 'blink' was not kept: choose one of the kept steps \(2, 4, 5\)\."):
        jobs.save_step(job.id, 3)
    with pytest.raises(JobError, match=r"\(none\)"):
        jobs.save_step(without.id, 1)
    assert (job.is_active, job.version, len(job.results)) == (False, version, 1)


def test_a_step_that_cannot_be_saved_leaves_the_job_done_and_says_why(jobs: Jobs, host: WatchedHost) -> None:
    job = done(jobs, preview_every=1)
    text = job.text
    host.fail_at("proving it: the round trip", torch.cuda.OutOfMemoryError("full"))
    jobs.save_step(job.id, 1)
    ended(jobs, job)
    assert (job.state, job.text, job.error) == (JobState.DONE, text, OUT_OF_MEMORY)
    assert loras(host) == ["blink.safetensors"]
    host.error = None
    jobs.save_step(job.id, 1)
    assert ended(jobs, job).error == ""
    assert loras(host) == ["blink-step1.safetensors", "blink.safetensors"]


def test_old_jobs_give_their_snapshots_up_but_not_what_waits_to_be_saved(
    jobs: Jobs, host: WatchedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [done(jobs, name=f"n{number}", preview_every=1, max_train_steps=1) for number in range(6)]
    gate = host.at["encoding the pictures"] = Gate()
    size = many[0].files.kept_bytes()
    assert size > 1000
    monkeypatch.setattr(lib_addift.jobs.prune, "_MOST_KEPT", int(5.5 * size))
    running = jobs.submit(request("n6"))
    gate.wait()
    assert [len(job.snapshots) for job in many] == [0, 1, 1, 1, 1, 1]
    with pytest.raises(JobError, match="not kept"):
        jobs.save_step(many[0].id, 1)
    assert many[0].results[0].path.is_file()
    jobs.save_step(many[1].id, 1)
    last = jobs.submit(request("n7"))
    gate.open()
    ended(jobs, last)
    assert ended(jobs, many[1]).error == ""
    assert running.state is JobState.DONE
    assert [result.path.stem for result in many[1].results] == ["n1", "n1-step1"]
    assert len(jobs.all()) == 8, "the jobs themselves stay"


def test_jobs_that_wait_do_not_cost_a_job_its_snapshots(jobs: Jobs, host: WatchedHost, gate: Gate) -> None:
    many = [jobs.submit(request(f"n{number}", max_train_steps=1)) for number in range(7)]
    gate.wait()
    second = Gate()
    host.at["step 1 of 1"] = lambda: host.at.update({"encoding the pictures": second})
    gate.open()
    second.wait()
    assert [job.state for job in many[:3]] == [JobState.DONE, JobState.RUNNING, JobState.QUEUED]
    assert [snapshot.step for snapshot in many[0].snapshots] == [1]
    for job in many:
        jobs.stop(job.id)
    second.open()
    ended(jobs, many[1])


def test_jobs_that_are_queued_while_it_is_held_begin_together(host: WatchedHost) -> None:
    jobs = Jobs(host, runner=LocalRunner(together=3))
    with jobs.held():
        queued = [jobs.submit(request(f"blink{number}")) for number in range(3)]
        time.sleep(0.3)
        assert all(job.is_queued for job in queued)
    for job in queued:
        assert ended(jobs, job).state is JobState.DONE
    began = [job.started for job in queued]
    first_end = min(job.finished or 0 for job in queued)
    assert all(when is not None and when < first_end for when in began), "all were begun before one had ended"
