from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lib_addift.training.finish
from lib_addift.config.settings import TrainConfig
from lib_addift.errors import (
    OUT_OF_MEMORY,
    HostError,
    JobError,
    LoraFileError,
    PictureError,
)
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.jobs.local_runner import LocalRunner
from lib_addift.jobs.queue import Job, Jobs, JobState
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Request
from tests.support.jobs import ORIGINAL, PATIENCE, Gate, WatchedHost, done, ended, loras, request, stop_at, trained
from tests.support.models import fingerprint
from tests.support.training import skip_evaluation

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


@pytest.mark.long
@pytest.mark.slow
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
        jobs.submit(Request.of(ORIGINAL, ORIGINAL.copy(), "blink", TrainConfig.create("action")))
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
    assert host.reported[-1].endswith("step 2 of 50"), "no further step, no evaluation"
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


@pytest.mark.parametrize(
    "where", ["evaluating it: the round trip", "evaluating it: new pictures", "drawing the preview"]
)
@pytest.mark.parametrize("keep", [False, True])
def test_a_job_can_be_stopped_while_it_is_evaluated(jobs: Jobs, host: WatchedHost, where: str, keep: bool) -> None:
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
    host.fail_at("evaluating it: the round trip", torch.cuda.OutOfMemoryError("full"))
    jobs.save_step(job.id, 1)
    ended(jobs, job)
    assert (job.state, job.text, job.error) == (JobState.DONE, text, OUT_OF_MEMORY)
    assert loras(host) == ["blink.safetensors"]
    host.error = None
    jobs.save_step(job.id, 1)
    assert ended(jobs, job).error == ""
    assert loras(host) == ["blink-step1.safetensors", "blink.safetensors"]


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


# Order, retry, repeat, remove, pause


def test_a_paused_queue_begins_nothing_until_it_is_resumed(open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    gate = jobs.host.at["encoding the pictures"] = Gate()  # type: ignore[attr-defined]
    first, second = jobs.submit(request("a")), jobs.submit(request("b"))
    gate.wait()
    jobs.pause()
    gate.open()
    assert ended(jobs, first).state is JobState.DONE, "what runs goes on"
    jobs.close()
    jobs = open_jobs()
    assert jobs.is_paused
    jobs.start()
    second = jobs.get(second.id)
    assert jobs.wait(second.id, 0.3).state is JobState.QUEUED
    jobs.resume()
    assert not jobs.is_paused
    assert ended(jobs, second).state is JobState.DONE


def test_jobs_that_wait_can_be_moved(open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    jobs.pause()
    a, b, c = (jobs.submit(request(name)) for name in "abc")
    for moved, before, order in ((c, a, "cab"), (a, None, "cba"), (b, b, "cba"), (b, c, "bca")):
        jobs.move(moved.id, before and before.id)
        assert "".join(job.name for job in jobs.queue()) == order
    assert [job.name for job in jobs.all()] == ["a", "b", "c"], "the list stays as it was"
    jobs.stop(a.id)
    for moved, before in ((a, b), (b, a)):
        with pytest.raises(JobError, match="waits no more"):
            jobs.move(moved.id, before.id)
    jobs.resume()
    ended(jobs, b)
    ended(jobs, c)
    assert [path.stem for path in jobs.host.refreshed] == ["b", "c"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_failed_job_is_retried_from_its_last_checkpoint_or_from_the_start(
    tmp_path: Path, open_jobs: Callable[..., Jobs], fresh: bool
) -> None:
    asked = request(max_train_steps=4, preview_every=2)
    host = WatchedHost(tmp_path / "lora")
    jobs = open_jobs(host)
    host.fail_at("step 3 of 4", MemoryError())
    job = ended(jobs, jobs.submit(asked))
    assert (job.state, job.step) == (JobState.FAILED, 3)
    host.error = None
    host.reported.clear()
    assert jobs.retry(job.id, from_start=fresh) is job
    ended(jobs, job)
    assert (job.state, job.error, len(job.losses)) == (JobState.DONE, "", 4)
    assert sum("step" in text for text in host.reported) == (4 if fresh else 2)
    assert [kept.step for kept in job.snapshots] == [2, 4]
    assert job.results[-1].path.read_bytes() == trained(tmp_path / "expected", asked)
    assert not job.files.has_resume_state, "a job that is done needs it no more"


def test_what_cannot_be_retried(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    host = WatchedHost(tmp_path / "lora")
    jobs = open_jobs(host)
    host.fail_at("step 3 of 4", MemoryError())
    failed = ended(jobs, jobs.submit(request(max_train_steps=4, preview_every=2)))
    host.error, host.model_title = None, "other.safetensors"
    with pytest.raises(HostError, match="was begun with the model 'fake.safetensors'"):
        jobs.retry(failed.id)
    assert (failed.state, failed.step) == (JobState.FAILED, 3)
    assert ended(jobs, jobs.retry(failed.id, from_start=True)).state is JobState.DONE
    with pytest.raises(Exception, match="already has 'blink.safetensors'"):
        jobs.retry(failed.id)
    jobs.pause()
    waiting = jobs.submit(request("b"))
    with pytest.raises(JobError, match="'b' is queued"):
        jobs.retry(waiting.id)


def test_a_job_is_repeated_with_changes(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    first = ended(jobs, jobs.submit(request()))
    with pytest.raises(Exception, match="'stepps' is no setting"):
        jobs.repeat(first.id, name="b", stepps=1)
    second = ended(jobs, jobs.repeat(first.id, name="b", max_train_steps=2))
    assert (second.name, second.total, second.state) == ("b", 2, JobState.DONE)
    assert second.request.config.rank == first.request.config.rank
    third = ended(jobs, jobs.repeat(first.id, overwrite=True))
    assert third.state is JobState.DONE
    assert loras(jobs.host) == ["b.safetensors", "blink.safetensors"]  # type: ignore[arg-type]
    jobs.remove(first.id)
    assert ended(jobs, jobs.repeat(third.id, name="c")).state is JobState.DONE


def test_a_repeated_job_may_have_another_mask(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (8, 8, 24, 24))
    mask.save(tmp_path / "mask.png")
    jobs = open_jobs()
    first = ended(jobs, jobs.submit(request(mask="file", mask_file=str(tmp_path / "mask.png"))))
    (tmp_path / "mask.png").unlink()
    same, other = jobs.repeat(first.id, name="b"), jobs.repeat(first.id, name="c", mask="off")
    assert 0 < first.pair.mask.mean() < 0.2
    assert same.pair.mask.tobytes() == first.pair.mask.tobytes()
    assert other.pair.mask is None


def test_an_ended_job_can_be_removed(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    gate = jobs.host.at["step 1 of 3"] = Gate()  # type: ignore[attr-defined]
    job = jobs.submit(request())
    gate.wait()
    with pytest.raises(JobError, match="'blink' has not ended"):
        jobs.remove(job.id)
    gate.open()
    ended(jobs, job)
    jobs.remove(job.id)
    assert jobs.all() == []
    assert not job.files.folder.exists()
    assert loras(jobs.host) == ["blink.safetensors"]  # type: ignore[arg-type]
    jobs.close()
    assert open_jobs().all() == []


def test_the_log_tells_what_happened(open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    job = ended(jobs, jobs.submit(request()))
    texts = [text for _, text in job.log]
    assert texts[:3] == ["queued", "began", "encoding the pictures"]
    assert texts[-3:] == ["saving", "saved 'blink'", job.text]
    times = [when for when, _ in job.log]
    assert times == sorted(times)
