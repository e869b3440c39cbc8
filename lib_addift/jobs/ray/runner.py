"""Jobs done by a Ray cluster: one worker process for each GPU, or for each CPU where the cluster has no GPU.

Ray starts the processes, moves the data and notices what dies. Where a process dies, its job goes on in another one
from the job's last resume state.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import lib_addift
from lib_addift.data.pairs import PairSource
from lib_addift.data.pictures import PictureSource, load_picture
from lib_addift.errors import HostError
from lib_addift.jobs.job import Job
from lib_addift.jobs.ray.actor import JobSpec, Model, SavedFiles, TrainActor, digest
from lib_addift.jobs.ray.pool import ActorPool
from lib_addift.jobs.runner import JobEvent, TakeJob
from lib_addift.lora.file import put_lora
from lib_addift.training.events import Request

_MEMORY = 2**30  # bytes that a process without a GPU needs beside its model


class RayRunner:
    """A `Runner` (jobs/worker.py) that has a Ray cluster do the jobs. Creating it connects and reads the checkpoint.

    Args:
        address: "local" for processes of this machine, "auto" for the cluster that this machine is part of, or its
            host:port. Every machine of it needs the packages of standalone_requirements.txt and ray_requirements.txt;
            this package itself is sent there.
        checkpoint: an SD1.x file on this machine. Each machine of the cluster gets it once and keeps it in its
            temporary folder, under its sha256.
        workers: the most processes at once; None = as many as there are GPUs, or CPUs with memory for a model.

    Raises HostError.
    """

    def __init__(
        self,
        address: str,
        checkpoint: Path,
        *,
        lora_dir: Path,
        precision: str = "auto",
        clip_skip: int = 1,
        workers: int | None = None,
    ) -> None:
        from lib_addift.hosts.checkpoint import read_checkpoint

        self._ray = _import_ray()
        read_checkpoint(checkpoint)  # a file that is none is refused here, not by every job
        self.lora_dir, self._precision, self._clip_skip, self._workers = lora_dir, precision, clip_skip, workers
        self._is_owner = _connect(self._ray, address, workers)
        contents = np.fromfile(checkpoint, np.uint8)
        self._model = Model(checkpoint.name, digest(contents), (self._ray.put(contents),))
        self._size = contents.nbytes

    def close(self) -> None:
        """Leave the cluster, or end the local one. Ray does so too when the program ends."""
        if self._is_owner:
            self._ray.shutdown()

    def run(self, take: TakeJob) -> Iterator[JobEvent]:
        """See `Runner`. The worker processes end with it, so that others can have their GPUs."""
        pool = ActorPool(self._ray, self, take)
        try:
            yield from pool.events()
        finally:
            pool.stop_all()

    def most_actors(self) -> int:
        """How many processes the cluster, as it is now, has room for; at least one, which may have to wait."""
        has = self._ray.cluster_resources()
        count = int(has.get("GPU", 0)) or min(int(has.get("CPU", 0)), int(has.get("memory", 0)) // self._memory)
        return max(1, min(count, self._workers or count))

    def start_actor(self) -> tuple[Any, Any]:
        """A new actor, and a reference to what it says when it has loaded the model: where it is."""
        if self._ray.cluster_resources().get("GPU", 0) >= 1:
            device, needs = "cuda", {"num_gpus": 1}
        else:
            device, needs = "cpu", {"num_cpus": 1, "memory": self._memory}
        # Two calls at once: the job, and its `stop`.
        actor = self._ray.remote(max_concurrency=2, max_restarts=0, **needs)(TrainActor).remote()
        return actor, actor.load.remote(self._model, device, self._precision, self._clip_skip)

    @property
    def _memory(self) -> int:
        return 2 * self._size + _MEMORY

    def job_spec(self, job: Job) -> JobSpec:
        """What an actor has to know of a job. Raises PictureError."""
        ours = job.run.taken
        names = {path.stem for path in self.lora_dir.glob("*.safetensors")} - ours
        taken = tuple(sorted(name for name in names if name.startswith(f"{job.name}-step")))
        return JobSpec(job.id, _with_pictures(job.run.request), taken, job.run.resume_state)

    def save(self, saved: SavedFiles, job: Job) -> None:
        """Move a LoRA that came from an actor into the folder and give it to its job. Raises LoraFileError."""
        request, path = job.run.request, self.lora_dir / saved.result.path.name
        contents = {path.with_suffix(suffix): contents for suffix, contents in saved.files.items()}
        # A name that the actor chose is free; and what the job has written already, it may write again.
        is_ours = path.stem != request.name or path.stem in job.run.taken
        put_lora(path, contents, overwrite=request.overwrite or is_ours)
        job.run.results.append(replace(saved.result, path=path))


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send them elsewhere
    try:
        import ray
    except ImportError as error:
        raise HostError(
            "training on a cluster needs ray: run 'pip install -r lib_addift/ray_requirements.txt', here and on each "
            "machine of the cluster."
        ) from error
    return ray


def _connect(ray: Any, address: str, workers: int | None) -> bool:
    """Join the cluster or start a local one; False when this program had done so already. Raises HostError."""
    if ray.is_initialized():
        return False
    if address.startswith("ray://"):
        raise HostError(
            f"the Ray address '{address}' is one for Ray's client, which cannot stream: run "
            "'ray start --address=HOST:PORT --num-cpus=0 --num-gpus=0' on this machine and give 'auto'."
        )
    _check_reachable(address)
    starting: dict[str, Any] = {"include_dashboard": False, "num_cpus": workers} if address == "local" else {}
    package = Path(lib_addift.__file__).parent
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"py_modules": [str(package)], "excludes": ["*.safetensors"]},
            **starting,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise HostError(
            f"no Ray cluster could be joined at '{address}' ({str(error).splitlines()[0].rstrip('.')}): start one with "
            "'ray start --head', or give 'local'."
        ) from error
    return True


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes and then end the program."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise HostError(
            f"nothing answers at the Ray address '{address}' ({error}): give the host:port that 'ray start --head' "
            "prints, 'auto' or 'local'."
        ) from error


def _with_pictures(request: Request) -> Request:
    """The request with its pictures instead of their paths, which mean nothing on another machine."""
    config = request.config
    shared_mask = config.mask_file if config.mask == "file" else None

    def loaded(pair: PairSource) -> PairSource:
        mask = shared_mask if pair.mask is None else pair.mask
        return replace(
            pair,
            original=_pixels(pair.original, "original"),
            target=_pixels(pair.target, "target"),
            mask=None if mask is None else _pixels(mask, "mask"),
        )

    return replace(request, pairs=tuple(loaded(pair) for pair in request.pairs))


def _pixels(source: PictureSource, role: str) -> np.ndarray:
    return np.asarray(load_picture(source, role))
