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
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import lib_addift.files
import lib_addift.training.run
from lib_addift.jobs.queue import Jobs, JobState
from lib_addift.jobs.store import JobStore
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost
from tests.support.jobs import PATIENCE, Gate, WatchedHost, ended, loras, only, request, trained, until
from tests.support.queue_program import STEPS
from tests.support.training import skip_evaluation

ROOT = Path(__file__).parents[2]


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


@pytest.mark.long
@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.long
def test_a_search_goes_on_from_every_moment_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_jobs: Callable[..., Jobs]
) -> None:
    monkeypatch.setattr(lib_addift.training.run, "_RESUME_STATE_EVERY", 2)
    taken = images(tmp_path, monkeypatch, lambda jobs: ended(jobs, jobs.submit(request(search=True))))
    expected = (taken[-1] / "lora" / "blink.safetensors").read_bytes()
    went_on = 0
    for image in taken:
        host = WatchedHost(image / "lora")
        jobs = open_jobs(host, image / "store")
        if not jobs.all():
            continue
        jobs.start()
        job = ended(jobs, only(jobs))
        assert (job.state, job.error, loras(host)) == (JobState.DONE, "", ["blink.safetensors"])
        assert (host.lora_dir / "blink.safetensors").read_bytes() == expected
        assert job.results[0].search["chosen"] in job.results[0].search["recipes"]
        assert "The best of 6 recipes" in job.text
        went_on += not any("step 1 of" in text for text in host.reported)
        jobs.close()
    assert went_on > 2, "some go on from a resume state"


@pytest.mark.slow
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


@pytest.mark.long
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.long
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
