"""Jobs after a crash: whatever moment the process dies at, nothing is lost, done twice, or different from before."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lib_addift.files
from lib_addift.errors import HostError, JobError
from lib_addift.jobs.queue import Job, Jobs, JobState
from lib_addift.jobs.store import JobStore
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost
from tests.support.jobs import PATIENCE, Gate, WatchedHost, ended, loras, request
from tests.support.queue_program import STEPS
from tests.support.training import skip_evaluation

ROOT = Path(__file__).parents[2]


def trained(lora_dir: Path, asked: Request) -> bytes:
    """The file of a run that nothing interrupts."""
    run = TrainingRun(FakeHost(lora_dir), asked, keep_snapshots=True)
    for _ in run.events():
        pass
    return run.results[-1].path.read_bytes()


@pytest.fixture
def open_jobs(tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    """Opens the store of this test; each time as after a restart, if the one before was closed."""
    with ExitStack() as stack:

        def open_(host: FakeHost | None = None, folder: Path = tmp_path / "store") -> Jobs:
            jobs = Jobs(host or WatchedHost(tmp_path / "lora"), JobStore(folder))
            jobs._store._database.execute("PRAGMA synchronous = OFF")  # a process that dies loses no writes
            stack.callback(jobs.close)
            return jobs

        yield open_


def only(jobs: Jobs) -> Job:
    (job,) = jobs.all()
    return job


# A process that dies


def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Jobs], None]) -> list[Path]:
    """Copies of the disk at every moment when `work` changed it: around each rename, in and after each transaction."""
    taken: list[Path] = []

    def take() -> None:
        image = tmp_path / "images" / str(len(taken))
        shutil.copytree(tmp_path / "disk", image)
        taken.append(image)

    rename, change = os.replace, JobStore._change

    def replace(source: Any, target: Any) -> None:
        take()
        rename(source, target)
        take()

    @contextmanager
    def changed(store: JobStore) -> Iterator[Any]:
        with change(store) as database:
            yield database
            take()
        take()

    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(lib_addift.files.os, "fsync", lambda _file: None)
    with monkeypatch.context() as patch:
        patch.setattr(lib_addift.files.os, "replace", replace)
        patch.setattr(JobStore, "_change", changed)
        jobs = Jobs(WatchedHost(tmp_path / "disk" / "lora"), JobStore(tmp_path / "disk" / "store"))
        work(jobs)
        jobs.close()
    return taken


def test_a_job_goes_on_from_every_moment_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_jobs: Callable[..., Jobs]
) -> None:
    asked = request(max_train_steps=4, preview_every=2, save_every=2, save_precision="fp32")
    expected = trained(tmp_path / "expected", asked)
    taken = images(tmp_path, monkeypatch, lambda jobs: ended(jobs, jobs.submit(asked)))
    assert len(taken) > 40
    went_on: Counter[int] = Counter()
    for image in taken:
        host = WatchedHost(image / "lora")
        jobs = open_jobs(host, image / "store")
        if not jobs.all():  # it died before it had said that the job is queued
            assert not loras(host)
            continue
        jobs.start()
        job = ended(jobs, only(jobs))
        assert (job.state, job.error, job.step) == (JobState.DONE, "", 4)
        assert loras(host) == ["blink-step2.safetensors", "blink.safetensors"]
        for name in ("blink-step2", "blink"):
            assert (host.lora_dir / f"{name}.safetensors").read_bytes() == (
                tmp_path / "expected" / f"{name}.safetensors"
            ).read_bytes()
        assert (host.lora_dir / "blink.safetensors").read_bytes() == expected
        assert len(job.losses) == 4
        assert [kept.step for kept in job.snapshots] == [2, 4]
        assert sorted(result.path.stem for result in job.results) == ["blink", "blink-step2"]
        assert all(result.strip.size and result.pictures.size for result in job.results)
        assert not list((image / "store").rglob("*.tmp"))
        went_on[4 - sum("step" in text and "of 4" in text for text in host.reported)] += 1
        jobs.close()
    assert went_on[0] > 2, "some begin at the start"
    assert went_on[2] > 2, "some go on from the first checkpoint"
    assert went_on[4] > 2, "some only have to be saved"


def test_a_save_of_a_kept_step_goes_on_from_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_jobs: Callable[..., Jobs]
) -> None:
    def work(jobs: Jobs) -> None:
        job = ended(jobs, jobs.submit(request(max_train_steps=2, preview_every=1)))
        asked.append(len(taken_before()))
        jobs.save_step(job.id, 1)
        ended(jobs, job)

    def taken_before() -> list[Path]:
        return list((tmp_path / "images").iterdir())

    asked: list[int] = []
    taken = images(tmp_path, monkeypatch, work)
    expected = (taken[-1] / "lora" / "blink-step1.safetensors").read_bytes()
    assert len(taken) - asked[0] > 15
    for image in taken[asked[0] + 1 :]:  # from when the wish was written down
        host = WatchedHost(image / "lora")
        jobs = open_jobs(host, image / "store")
        jobs.start()
        job = ended(jobs, only(jobs))
        assert (job.state, job.error) == (JobState.DONE, "")
        assert loras(host) == ["blink-step1.safetensors", "blink.safetensors"]
        assert (host.lora_dir / "blink-step1.safetensors").read_bytes() == expected
        assert [result.path.stem for result in job.results] == ["blink", "blink-step1"]
        jobs.close()


class Program:
    """A process of tests/support/queue_program.py."""

    def __init__(self, folder: Path, lora_dir: Path, *names: str, seconds: float = 0.0) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.support.queue_program",
            str(folder),
            str(lora_dir),
            str(seconds),
            *names,
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """At once, as by kill -9 or by the task manager."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def end(self) -> None:
        _, errors = self.process.communicate(timeout=2 * PATIENCE)
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors, errors


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def begin(*names: str, seconds: float = 0.0) -> Program:
        programs.append(Program(tmp_path / "store", tmp_path / "lora", *names, seconds=seconds))
        return programs[-1]

    yield begin
    for each in programs:
        each.kill()


def trail(tmp_path: Path) -> list[tuple[int, int]]:
    """(process, step) of every step that was reported."""
    file = tmp_path / "store" / "trail"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [(int(process), int(step)) for process, step, _total in map(str.split, lines)]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_process_is_gone_on_from(
    tmp_path: Path, program: Callable[..., Program], open_jobs: Callable[..., Jobs]
) -> None:
    expected = trained(tmp_path / "expected", request("a", max_train_steps=STEPS, preview_every=2))
    first = program("a", "b", seconds=0.3)
    until(lambda: (first.process.pid, 3) in trail(tmp_path))
    first.kill()
    jobs = open_jobs()
    assert [(job.name, job.state) for job in jobs.all()] == [("a", JobState.RUNNING), ("b", JobState.QUEUED)]
    jobs.start()
    a, b = (ended(jobs, job) for job in jobs.all())
    assert [job.state for job in (a, b)] == [JobState.DONE] * 2
    assert (tmp_path / "lora" / "a.safetensors").read_bytes() == expected
    steps = [text for text in jobs.host.reported if "step" in text]  # type: ignore[attr-defined]
    assert steps[0].endswith(f"step 3 of {STEPS}"), "it had a checkpoint at 2"
    assert len(a.losses) == STEPS
    assert [text for _, text in a.log].count("the program ended; it will go on") == 1


@pytest.mark.slow
def test_of_two_processes_one_works_and_the_other_takes_over(tmp_path: Path, program: Callable[..., Program]) -> None:
    names = ["a", "b", "c", "d"]
    programs = [program("a", "b", seconds=0.1), program("c", "d", seconds=0.1)]
    until(lambda: len(trail(tmp_path)) > STEPS + 2)
    workers = {process for process, _ in trail(tmp_path)}
    assert len(workers) == 1, "one of them works"
    (worker,) = (each for each in programs if each.process.pid in workers)
    (other,) = (each for each in programs if each is not worker)
    until(lambda: Jobs(FakeHost(tmp_path / "lora"), JobStore(tmp_path / "store")).all()[-1:] != [])
    worker.kill()
    other.end()
    jobs = Jobs(FakeHost(tmp_path / "lora"), JobStore(tmp_path / "store"))
    submitted = sorted(job.name for job in jobs.all())
    assert set(submitted) >= ({"c", "d"} if other is programs[1] else {"a", "b"})
    assert [job.state for job in jobs.all()] == [JobState.DONE] * len(submitted)
    for name in submitted:
        asked = request(name, max_train_steps=STEPS, preview_every=2)
        assert (tmp_path / "lora" / f"{name}.safetensors").read_bytes() == trained(tmp_path / "expected", asked)
    steps = trail(tmp_path)
    changes = [after for before, after in pairwise(steps) if before[0] != after[0]]
    assert len(changes) == 1, "they take no turns"
    repeated = len(steps) - STEPS * len(submitted)
    assert 0 <= repeated <= 3, "no more than the steps since a checkpoint is done twice"
    assert set(submitted) <= set(names)


WRITER = """
import sys
from pathlib import Path
from lib_addift.files import replace_files
file, beginning = Path(sys.argv[1]), True
for number in range(10**9):
    replace_files({file: bytes([number % 256]) * 3_000_000})
    if number == 0:
        print("begun", flush=True)
"""


def test_a_file_that_is_being_replaced_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    chance, file = random.Random(0), tmp_path / "file"
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"begun"
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
        data = file.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


# What a crash leaves


def interrupted(store: JobStore, job_id: str) -> None:
    """As if the process had died in the middle of a job."""
    assert store.begin(job_id)


def test_a_job_during_which_the_program_dies_three_times_is_given_up(
    tmp_path: Path, open_jobs: Callable[..., Jobs]
) -> None:
    jobs = open_jobs()
    jobs.pause()
    job, store = jobs.submit(request()), JobStore(tmp_path / "store")
    for count in (1, 2, 3):
        jobs.close()
        interrupted(store, job.id)
        jobs = open_jobs()
        jobs.start()
        until(lambda jobs=jobs: not only(jobs).is_running)  # type: ignore[misc]
        assert only(jobs).state is (JobState.QUEUED if count < 3 else JobState.FAILED)
    assert only(jobs).error.startswith("the program ended 3 times while 'blink' was trained")
    again = jobs.retry(job.id)
    jobs.resume()
    assert ended(jobs, again).state is JobState.DONE


def test_a_job_that_was_told_to_stop_does_not_go_on_after_a_crash(
    tmp_path: Path, open_jobs: Callable[..., Jobs]
) -> None:
    jobs = open_jobs()
    jobs.pause()
    job, store = jobs.submit(request()), JobStore(tmp_path / "store")
    jobs.close()
    interrupted(store, job.id)
    store.ask_to_stop(job.id, keep=False)
    jobs = open_jobs()
    jobs.resume()
    assert ended(jobs, only(jobs)).state is JobState.STOPPED
    assert not loras(jobs.host)  # type: ignore[arg-type]


def test_interrupted_jobs_go_first_and_in_their_order(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    jobs.pause()
    names = {job.id: job.name for job in [jobs.submit(request(name)) for name in "abcd"]}
    ids = {name: job_id for job_id, name in names.items()}
    jobs.close()
    store = JobStore(tmp_path / "store")
    for name in "bc":  # two at once
        interrupted(store, ids[name])
    jobs = open_jobs()
    jobs.start()
    until(lambda: len(jobs.queue()) == 4)
    assert [job.name for job in jobs.queue()] == ["b", "c", "a", "d"]


def test_a_save_during_which_the_program_dies_three_times_is_given_up(
    tmp_path: Path, open_jobs: Callable[..., Jobs]
) -> None:
    jobs = open_jobs()
    job = ended(jobs, jobs.submit(request(preview_every=1)))
    jobs.close()
    store = JobStore(tmp_path / "store")
    store.add_save(job.id, 2)
    for _ in range(3):
        store.begin_save(store.saves()[0])
    jobs = open_jobs()
    assert only(jobs).is_active
    jobs.start()
    assert ended(jobs, only(jobs)).error.startswith("the program ended 3 times while step 2 was saved")
    assert (only(jobs).state, store.saves()) == (JobState.DONE, [])


def test_a_closed_queue_goes_on_where_it_was(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    asked = request(max_train_steps=6, preview_every=2)
    jobs = open_jobs()
    gate = jobs.host.at["step 3 of 6"] = Gate()  # type: ignore[attr-defined]
    job = jobs.submit(asked)
    gate.wait()
    job.halt()
    gate.open()
    jobs.close()
    assert (job.state, job.is_active) == (JobState.QUEUED, True)
    jobs = open_jobs()
    assert (only(jobs).state, only(jobs).id, only(jobs).step) == (JobState.QUEUED, job.id, 3)
    jobs.start()
    assert ended(jobs, only(jobs)).state is JobState.DONE
    assert (tmp_path / "lora" / "blink.safetensors").read_bytes() == trained(tmp_path / "expected", asked)


def test_a_job_from_before_a_restart_waits_for_its_model(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    jobs.pause()
    jobs.submit(request())
    jobs.close()
    host = WatchedHost(tmp_path / "lora")
    host.model_title = "other.safetensors"
    jobs = open_jobs(host)
    jobs.resume()
    until(lambda: "fake.safetensors" in only(jobs).text)
    assert (only(jobs).state, host.uses) == (JobState.QUEUED, 0)
    host.model_title = "fake.safetensors"
    assert ended(jobs, only(jobs)).state is JobState.DONE


def test_a_kept_step_can_be_saved_after_a_restart(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    asked = request(preview_every=1)
    run = TrainingRun(FakeHost(tmp_path / "expected"), asked, keep_snapshots=True)
    for events in (run.events(), run.keep(2)):
        list(events)
    jobs = open_jobs()
    ended(jobs, jobs.submit(asked))
    jobs.close()
    jobs = open_jobs()
    job = only(jobs)
    text = job.text
    jobs.save_step(job.id, 2)
    ended(jobs, job)
    assert (job.state, job.text, job.error) == (JobState.DONE, text, "")
    assert [result.path.stem for result in job.results] == ["blink", "blink-step2"]
    for name in ("blink", "blink-step2"):
        files = (tmp_path / folder / f"{name}.safetensors" for folder in ("lora", "expected"))
        assert next(files).read_bytes() == next(files).read_bytes()


def test_a_kept_step_of_another_model_is_not_saved(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    ended(jobs, jobs.submit(request(preview_every=1)))
    jobs.close()
    host = WatchedHost(tmp_path / "lora")
    host.model_title = "other.safetensors"
    jobs = open_jobs(host)
    jobs.save_step(only(jobs).id, 1)
    assert "the model is now 'other.safetensors'" in ended(jobs, only(jobs)).error


def test_everything_about_a_job_survives_a_restart(open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    before = ended(jobs, jobs.submit(request(preview_every=1)))
    jobs.close()
    jobs = open_jobs()
    after = only(jobs)
    assert after is not before
    assert after.record() == before.record()
    assert (after.id, after.state, after.request, after.report) == (
        before.id, before.state, before.request, before.report,
    )  # fmt: skip
    assert after.losses == before.losses
    assert after.results[0].verdict == before.results[0].verdict == after.text
    assert after.results[0].round_trip == before.results[0].round_trip
    assert after.thumbnail is not None
    assert after.pair.original.tobytes() == before.pair.original.tobytes()
    for one, other in zip(after.snapshots, before.snapshots, strict=True):
        assert one.step == other.step
        assert one.strip.tobytes() == other.strip.tobytes()
        assert all(torch.equal(tensor, other.tensors[key]) for key, tensor in one.tensors.items())


def test_two_hundred_jobs(tmp_path: Path, open_jobs: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch) -> None:
    skip_evaluation(monkeypatch)
    monkeypatch.setattr(lib_addift.files.os, "fsync", lambda _file: None)
    chance, names = random.Random(0), [f"n{number:03}" for number in range(200)]
    host = WatchedHost(tmp_path / "lora")
    jobs = open_jobs(host)
    jobs.pause()
    short = {"max_train_steps": 1, "directions": "forward", "preview_every": 0}
    ids = {name: jobs.submit(request(name, **short)).id for name in names}  # type: ignore[arg-type]
    cancelled = set(chance.sample(names, 50))
    for name in sorted(cancelled):
        jobs.stop(ids[name])
    order = [name for name in names if name not in cancelled]
    for _ in range(30):
        moved, before = chance.sample(order, 2)
        jobs.move(ids[moved], ids[before])
        order.remove(moved)
        order.insert(order.index(before), moved)
    jobs.close()
    for count in (50, 100, 150):
        host.at.clear()
        jobs = open_jobs(host)
        assert [job.name for job in jobs.queue()] == order[len(host.refreshed) :]
        jobs.resume()
        until(lambda count=count: len(host.refreshed) >= count)  # type: ignore[misc]
        jobs.close()
    assert [path.stem for path in host.refreshed] == order
    assert {job.name for job in jobs.all() if job.state is JobState.DONE} == set(order)
    assert {job.name for job in jobs.all() if job.state is JobState.STOPPED} == cancelled
    assert len(jobs.all()) == 200
    assert host.most_users == 1


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


# Another process, as another Jobs


def test_another_process_sees_stops_moves_and_submits(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    worker, other = open_jobs(), open_jobs(FakeHost(tmp_path / "lora"))
    gate = worker.host.at["step 1 of 3"] = Gate()  # type: ignore[attr-defined]
    running, waiting = worker.submit(request("a")), worker.submit(request("b"))
    gate.wait()
    submitted = other.submit(request("c"))
    with pytest.raises(JobError, match="'A' is being trained already"):
        other.submit(request("A"))
    until(lambda: [job.state for job in other.all()] == [JobState.RUNNING, JobState.QUEUED, JobState.QUEUED])
    other.move(submitted.id, waiting.id)
    other.stop(running.id)
    other.stop(waiting.id)
    gate.open()
    assert ended(worker, running).state is JobState.STOPPED
    until(lambda: not any(job.is_active for job in other.all()))
    assert [job.state for job in other.all()] == [JobState.STOPPED, JobState.STOPPED, JobState.DONE]
    assert ended(other, submitted).results[0].path == tmp_path / "lora" / "c.safetensors"
    until(lambda: len(worker.all()) == 3 and worker.get(submitted.id).state is JobState.DONE)
    assert waiting.state is JobState.STOPPED
    assert [path.stem for path in worker.host.refreshed] == ["c"]  # type: ignore[attr-defined]
    other.remove(submitted.id)
    until(lambda: len(worker.all()) == 2)


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
