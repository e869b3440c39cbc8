"""The tests that need no cluster come first; the others share a local one of two worker processes."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource, load_pair
from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT, TASKS
from lib_addift.errors import HostError, PictureError
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.jobs.queue import Job, Jobs, JobState
from lib_addift.jobs.ray import pool
from lib_addift.jobs.ray import runner as cluster
from lib_addift.jobs.ray.runner import RayRunner
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.ray_cluster import contents, needs_ray

SMALL = {"max_train_steps": 6, "sampling_steps": 1, "preview_every": 2, "rank": 2}


def small(**settings: Any) -> TrainConfig:
    return TrainConfig.create("action", **{**SMALL, **settings})


def request(name: str, files: tuple[Path, Path], **settings: Any) -> Request:
    return Request.of(*files, name, small(**settings))


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """A mask file: white on the left."""
    path = tmp_path / "grey.png"
    Image.fromarray(np.repeat([[255] * 32 + [0] * 32], 64, axis=0).astype(np.uint8)).save(path)
    return path


# Without a cluster


def refusal(address: str, checkpoint: Path = CHECKPOINT) -> str:
    """The one sentence with which a runner is refused."""
    with pytest.raises(HostError) as caught:
        RayRunner(address, checkpoint, lora_dir=Path("nowhere"))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install -r lib_addift/ray_requirements.txt" in refusal("local")


@pytest.mark.slow
def test_where_no_cluster_is_that_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_ray()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address, words in {
        f"127.0.0.1:{port}": "nothing answers at the Ray address",
        "127.0.0.1:port": "nothing answers at the Ray address",
        "ray://127.0.0.1:10001": "cannot stream",
        "somewhere": "no Ray cluster could be joined at 'somewhere'",
    }.items():
        assert words in refusal(address)


def test_a_file_that_is_no_checkpoint_is_refused_before_a_cluster_is_asked(tmp_path: Path) -> None:
    needs_ray()
    assert "is no file" in refusal("127.0.0.1:1", tmp_path / "gone.safetensors")


@pytest.mark.parametrize("kind", ["paths", "transparent", "mask", "mask_file"])
def test_pictures_travel_without_a_change(tmp_path: Path, pair_files: tuple[Path, Path], grey: Path, kind: str) -> None:
    original, target = pair_files
    if kind == "transparent":
        target = tmp_path / "hole.png"
        picture = Image.open(pair_files[1]).convert("RGBA")
        picture.putalpha(Image.open(grey))
        picture.save(target)
    source = PairSource(original, target, mask=grey if kind == "mask" else None, weight=2.0)
    settings = {"transparent": {"mask": "alpha"}, "mask_file": {"mask": "file", "mask_file": str(grey)}}
    config = small(**settings.get(kind, {}))
    sent = cluster._with_pictures(Request((source,), "x", config))
    assert sent.config == config
    there = sent.pairs[0]
    assert all(not isinstance(each, (str, Path)) for each in (there.original, there.target, there.mask))
    assert there.weight == 2.0
    here, elsewhere = (load_pair(each.original, each.target, config, each.mask) for each in (source, there))
    for name in ("original", "target", "mask"):
        assert np.array_equal(getattr(here, name), getattr(elsewhere, name)), name
    assert here.crop == elsewhere.crop


def test_a_picture_that_is_gone_is_named(pair_files: tuple[Path, Path]) -> None:
    with pytest.raises(PictureError, match=r"gone\.png' does not exist"):
        cluster._with_pictures(Request.of(pair_files[0], Path("gone.png"), "x", small()))


# On a local cluster


@pytest.fixture(scope="module")
def host() -> StandaloneHost:
    return StandaloneHost(CHECKPOINT, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[RayRunner]:
    needs_ray()
    with closing(RayRunner("local", CHECKPOINT, lora_dir=Path("unset"), precision="fp32", workers=2)) as runner:
        yield runner


class Observed:
    """A runner whose words are kept, and shown to `hook` first."""

    def __init__(self, runner: RayRunner) -> None:
        self.runner, self.said = runner, []
        self.hook: Callable[[Job, Any], None] = lambda job, said: None

    def run(self, take: Any) -> Iterator[Any]:
        for job, said in self.runner.run(take):
            self.said.append((job.name, said))
            self.hook(job, said)
            yield job, said


@pytest.fixture
def runner(local_cluster: RayRunner, host: StandaloneHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Observed:
    for each in (local_cluster, host):
        monkeypatch.setattr(each, "lora_dir", tmp_path / "lora")
    (tmp_path / "lora").mkdir()
    return Observed(local_cluster)


@pytest.fixture
def jobs(host: StandaloneHost, runner: Observed) -> Iterator[Jobs]:
    with closing(Jobs(host, runner=runner)) as jobs:
        jobs.pause()
        yield jobs


def finish(jobs: Jobs, ids: list[str]) -> list[Job]:
    jobs.resume()
    return [jobs.wait(job_id, 300) for job_id in ids]  # s; on a busy machine a worker can take minutes to start


class Processes(logging.Handler):
    """Which process trains which job, as the log says."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, list[int]] = {}
        self.begun_at: dict[str, list[int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.search(r"training '(.+)' from step (\d+) on in process (\d+)", record.getMessage()):
            name, step, process = found.groups()
            self.of.setdefault(name, []).append(int(process))
            self.begun_at.setdefault(name, []).append(int(step))

    def kill(self, name: str) -> None:
        os.kill(self.of[name][-1], getattr(signal, "SIGKILL", signal.SIGTERM))


@pytest.fixture
def processes() -> Iterator[Processes]:
    log, handler = logging.getLogger(pool.__name__), Processes()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.mark.long
def test_four_jobs_of_which_one_loses_its_process_give_the_same_bytes_as_here(
    runner: Observed,
    host: StandaloneHost,
    jobs: Jobs,
    processes: Processes,
    tmp_path: Path,
    pair_files: tuple[Path, Path],
    grey: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mouth = TASKS["mouth"]
    requests = [
        request("one", pair_files),
        request("two", pair_files, mask="file", mask_file=str(grey)),
        request("three", pair_files, save_every=3),
        Request.of(*(world.draw(face) for face in mouth.faces(1)), mouth.name, small(seed=2)),
    ]
    here, there = tmp_path / "here", tmp_path / "lora"
    for folder in (here, there):
        folder.mkdir(exist_ok=True)
        (folder / "three-step3.safetensors").write_bytes(b"of an earlier job")
    ids = [jobs.submit(each).id for each in requests]

    def kill_once(job: Job, said: Any) -> None:
        if job.name == "three" and isinstance(said, StepReport) and said.step == 3 and len(processes.of["three"]) == 1:
            processes.kill("three")

    runner.hook = kill_once
    done = finish(jobs, ids)
    assert [job.state for job in done] == [JobState.DONE] * 4, [job.error for job in done]
    assert len(set(processes.of["three"])) == 2
    assert processes.begun_at["three"] == [0, 2], "it goes on from its last checkpoint"
    assert len({process for each in processes.of.values() for process in each}) > 1
    for job in done:
        assert job.losses == [report.loss for report in reports(runner, job.name)]
        assert [snapshot.step for snapshot in job.snapshots] == [2, 4, 6]
        assert job.results[-1].path == there / f"{job.name}.safetensors"
    monkeypatch.setattr(host, "lora_dir", here)
    for each in requests:
        run = TrainingRun(host, each)
        list(run.events())
    assert contents(there) == contents(here)
    assert len(contents(there)) == 4 * 3 + 1 + 3


def reports(runner: Observed, name: str) -> list[StepReport]:
    """The latest report of each step."""
    found = {said.step: said for job, said in runner.said if job == name and isinstance(said, StepReport)}
    return [found[step] for step in sorted(found)]


@pytest.mark.long
def test_jobs_that_fail_or_are_stopped_leave_the_others_alone(
    runner: Observed,
    jobs: Jobs,
    processes: Processes,
    tmp_path: Path,
    pair_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_MOST_RETRIES", 0)
    settings = {"wrong": {"precision": "bf16"}, "long": {"max_train_steps": 60}, "taken": {}, "deadly": {}, "good": {}}
    ids = {name: jobs.submit(request(name, pair_files, **each)).id for name, each in settings.items()}
    folder = tmp_path / "lora"

    def disturb(job: Job, said: Any) -> None:
        if isinstance(said, StepReport) and said.step == 2:
            if job.name == "long":
                jobs.stop(job.id, keep=True)
            elif job.name == "taken":
                (folder / "taken.safetensors").write_bytes(b"somebody else's")
            elif job.name == "deadly":
                processes.kill("deadly")

    runner.hook = disturb
    wrong, long, taken, deadly, good = finish(jobs, list(ids.values()))
    assert {job.state for job in (wrong, taken, deadly)} == {JobState.FAILED}
    assert wrong.error.startswith("precision = bf16 cannot be had")
    assert "taken.safetensors' exists already" in taken.error
    assert (folder / "taken.safetensors").read_bytes() == b"somebody else's"
    assert f"while they trained 'deadly', the last one being process {processes.of['deadly'][0]} on" in deadly.error
    assert good.state is JobState.DONE
    assert long.state is JobState.STOPPED, long.error
    assert long.step == max(reports(runner, "long"), key=lambda report: report.step).step < 60
    assert {path.stem for path in folder.iterdir()} == {"good", "taken", f"long-step{long.step}"}
    tensors, metadata = read_lora(folder / f"long-step{long.step}.safetensors")
    assert json.loads(metadata["addift.report"])["steps"] == long.step
    assert any(tensor.any() for key, tensor in tensors.items() if "lora_up" in key)


@pytest.mark.long
def test_when_no_process_starts_every_job_says_why(
    runner: Observed, jobs: Jobs, pair_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_MOST_FAILED_STARTS", 1)
    monkeypatch.setattr(runner.runner, "_precision", "fp8")
    for job in finish(jobs, [jobs.submit(request(name, pair_files)).id for name in ("one", "two")]):
        assert job.state is JobState.FAILED
        assert job.error.startswith("precision 'fp8' is unknown")
