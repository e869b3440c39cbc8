"""What runs in the worker processes of a Ray cluster, and what goes there and back."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lib_addift.errors import HostError
from lib_addift.files import replace_files
from lib_addift.training.events import Event, Request, Result, ResumeState
from lib_addift.training.search import new_run

if TYPE_CHECKING:
    from lib_addift.hosts.standalone import StandaloneHost


@dataclass(frozen=True)
class Model:
    """A checkpoint file on its way."""

    title: str  # the file's name
    digest: str  # sha256, hex
    contents: tuple[Any]  # a reference to its bytes; in a tuple, or Ray would fetch them for every process


@dataclass(frozen=True, eq=False)
class JobSpec:
    """A job on its way to an actor."""

    job: str  # id
    request: Request  # with pictures, not paths
    taken: tuple[str, ...]  # names of unfinished LoRAs of other jobs, which are in the LoRA folder already
    resume_state: ResumeState | None  # where it goes on


@dataclass(frozen=True, eq=False)
class SavedFiles:
    """A LoRA on its way back."""

    result: Result  # its path means something there only
    files: Mapping[str, bytes]  # by suffix, in the order in which they are to be written


@dataclass(frozen=True, eq=False)
class PartialResult:
    """What a stopped job has learnt, so that it can be saved."""

    step: int
    train_seconds: float
    tensors: Mapping[str, torch.Tensor]


class TrainActor:
    """The model, and one job at a time on it. Becomes a Ray actor."""

    def __init__(self) -> None:
        self._host: StandaloneHost | None = None
        self._stopped = ""

    def load(self, model: Model, device: str, precision: str, clip_skip: int) -> str:
        """Get ready; returns where this process is. Raises HostError."""
        from lib_addift.hosts.standalone import StandaloneHost

        self._host = StandaloneHost(_local_file(model), device=device, precision=precision, clip_skip=clip_skip)
        return f"process {os.getpid()} on {socket.gethostname()}"

    def stop(self, job: str) -> None:
        """End this job after its current step."""
        self._stopped = job

    def train(self, spec: JobSpec) -> Iterator[Event | SavedFiles | PartialResult]:
        """Train a job; yields its events, its files, and what it has learnt where it was stopped."""
        assert self._host is not None
        with tempfile.TemporaryDirectory(prefix="addift-") as folder:
            self._host.lora_dir = Path(folder)
            for name in spec.taken:
                (Path(folder) / f"{name}.safetensors").touch()
            run = new_run(self._host, spec.request, keep_snapshots=True, resume_state=spec.resume_state)
            sent = 0  # results
            with closing(run.events()) as events:
                for event in events:
                    yield event
                    if self._stopped == spec.job:
                        run.stop()
                    for result in run.results[sent:]:
                        yield _saved_files(result)
                    sent = len(run.results)
            for result in run.results[sent:]:
                yield _saved_files(result)
            if run.is_stopped:
                yield PartialResult(run.steps_done, run.train_seconds, run.learnt)


def _saved_files(result: Result) -> SavedFiles:
    files = {suffix: result.path.with_suffix(suffix) for suffix in (".json", ".png", ".safetensors")}
    return SavedFiles(result, {suffix: file.read_bytes() for suffix, file in files.items()})


def digest(contents: np.ndarray) -> str:
    """sha256 of an array's bytes, hex."""
    return hashlib.sha256(contents.data).hexdigest()


def _local_file(model: Model) -> Path:
    """The checkpoint on this machine. The first process that needs it writes it; the others wait and use it."""
    import ray
    from filelock import FileLock

    folder = Path(tempfile.gettempdir()) / f"addift-{model.digest}"
    file = folder / model.title  # this name goes into the LoRA's metadata
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "lock"):
            if not file.exists() or digest(np.memmap(file, np.uint8, "r")) != model.digest:
                replace_files({file: ray.get(model.contents[0])})
    except OSError as error:
        raise HostError(
            f"the checkpoint cannot be written to '{folder}' of {socket.gethostname()} ({error.strerror or error}): "
            "make room there, or delete that folder."
        ) from error
    return file
