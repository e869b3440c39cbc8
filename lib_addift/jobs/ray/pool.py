"""The worker processes of a Ray cluster: which job runs in which, and what becomes of their events."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lib_addift.errors import AddiftError, HostError
from lib_addift.jobs.job import Job
from lib_addift.jobs.ray.actor import JobSpec, PartialResult, SavedFiles
from lib_addift.jobs.runner import JobEvent, TakeJob
from lib_addift.training.events import Event, ResumeState

_log = logging.getLogger(__name__)

_MOST_RETRIES = 3  # of a job whose process died
_MOST_FAILED_STARTS = 3  # of processes, one after the other
_POLL = 0.5  # seconds between looks at what was stopped and at what joined the cluster
_PATIENCE = 60.0  # seconds without a process until that is said


class Cluster(Protocol):
    """What the pool asks of the runner that is connected to the cluster."""

    def most_actors(self) -> int:
        """How many processes there is room for now; at least one, which may have to wait."""
        ...

    def start_actor(self) -> tuple[Any, Any]:
        """A new actor, and a reference to what it answers when it has loaded the model: where it is."""
        ...

    def job_spec(self, job: Job) -> JobSpec:
        """What an actor has to know of a job. Raises PictureError."""
        ...

    def save(self, files: SavedFiles, job: Job) -> None:
        """Write a LoRA that came from an actor. Raises LoraFileError."""
        ...


@dataclass(eq=False)
class _Task:
    """A job that was taken, and how far it is."""

    job: Job
    spec: JobSpec
    deaths: int = 0  # of its processes
    is_told: bool = False  # that it was stopped


@dataclass(frozen=True, eq=False)
class Actor:
    """A worker process that has loaded the model."""

    handle: Any  # Ray's
    place: str


class ActorPool:
    """The worker processes of one `RayRunner.run`, from the first process to the last job."""

    def __init__(self, ray: Any, cluster: Cluster, take: TakeJob) -> None:
        self._ray, self._cluster, self._take = ray, cluster, take
        self._starting: dict[Any, Any] = {}  # handle by the reference that says that it is ready
        self._idle: list[Actor] = []
        self._busy: dict[Any, tuple[_Task, Actor]] = {}  # by stream of events
        self._retries: list[_Task] = []  # whose process died
        self._failed_starts: list[Exception] = []  # since the latest process that did start
        self._latest = time.monotonic()  # when something worked

    def events(self) -> Iterator[JobEvent]:
        """Until nothing is left to do."""
        while not self._idle or self._busy:
            self._start_actors()
            ready = self._wait()
            for one in ready:
                if one in self._busy:
                    yield from self._next_event(one)
                else:
                    self._add_ready(one)
            if len(self._failed_starts) >= _MOST_FAILED_STARTS and not self._idle and not self._busy:
                yield from self._fail_all(self._failed_starts[-1])
                return
            self._pass_on_stops()
            yield from self._assign_jobs()
            self._warn(is_alive=bool(ready or self._busy))

    def _wait(self) -> list[Any]:
        """Everything that has an event or is ready; after a while nothing."""
        waiting = [*self._starting, *self._busy]
        ready, _ = self._ray.wait(waiting, timeout=_POLL)
        if ready:  # and what else there is, so that a quick one does not keep the others from being heard
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return list(ready)

    def _fail_all(self, error: Exception) -> Iterator[JobEvent]:
        """No process starts: all jobs fail."""
        yield from ((task.job, error) for task in self._retries)
        while job := self._take(lambda _job: True):
            yield job, error

    def stop_all(self) -> None:
        """End all worker processes."""
        actors = [*self._idle, *(actor for _task, actor in self._busy.values())]
        for handle in [*self._starting.values(), *(actor.handle for actor in actors)]:
            self._kill(handle)

    def _start_actors(self) -> None:
        """Start processes, up to twice as many as work, so that one job does not take the whole cluster."""
        wanted = min(self._cluster.most_actors(), max(1, 2 * len(self._busy) + len(self._retries)))
        for _ in range(wanted - len(self._starting) - len(self._idle) - len(self._busy)):
            handle, ready = self._cluster.start_actor()
            self._starting[ready] = handle

    def _add_ready(self, ready: Any) -> None:
        """Add a process that has loaded the model, or note that it did not start."""
        handle = self._starting.pop(ready)
        try:
            self._idle.append(Actor(handle, self._ray.get(ready)))
            self._failed_starts.clear()
        except self._ray.exceptions.RayError as error:
            self._kill(handle)
            self._failed_starts.append(_reason(error))
            _log.warning("a worker process did not start: %s", self._failed_starts[-1])

    def _assign_jobs(self) -> Iterator[JobEvent]:
        """Give every idle process a job; none is idle afterwards, or no job is left."""
        while self._idle:
            if self._retries:
                task = self._retries.pop(0)
            elif job := self._take(lambda _job: True):
                try:
                    task = _Task(job, self._cluster.job_spec(job))
                except Exception as error:  # the job ends here, the others go on
                    yield job, error
                    continue
            else:
                return
            actor = self._idle.pop()
            step = task.spec.resume_state.step if task.spec.resume_state else 0
            _log.info("training '%s' from step %d on in %s", task.job.name, step, actor.place)
            stream = actor.handle.train.options(num_returns="streaming").remote(task.spec)
            self._busy[stream] = task, actor

    def _next_event(self, stream: Any) -> Iterator[JobEvent]:
        """Handle the next event of one process."""
        task, actor = self._busy[stream]
        errors = self._ray.exceptions
        try:
            event = self._ray.get(next(stream))
            yield from self._handle(task, event)
        except StopIteration:
            del self._busy[stream]
            self._idle.append(actor)
            yield task.job, None
        except errors.RayTaskError as error:  # the job failed there
            reason = _reason(error)
            del self._busy[stream]
            if isinstance(reason, AddiftError):
                self._idle.append(actor)
            else:  # an error of the GPU, say, after which nothing works in that process
                self._kill(actor.handle)
            yield task.job, reason
        except errors.RayError as error:  # the process died, or what it said was lost with its machine
            del self._busy[stream]
            self._kill(actor.handle)
            yield from self._retry_elsewhere(task, actor, error)
        except AddiftError as error:  # the LoRA cannot be written here
            del self._busy[stream]
            self._kill(actor.handle)
            yield task.job, error

    def _handle(self, task: _Task, said: Event | SavedFiles | PartialResult) -> Iterator[JobEvent]:
        if isinstance(said, SavedFiles):
            self._cluster.save(said, task.job)
        elif isinstance(said, PartialResult):
            task.job.run.set_partial_result(said.step, said.train_seconds, said.tensors)
        else:
            if isinstance(said, ResumeState):
                task.spec = replace(task.spec, resume_state=said)
            yield task.job, said

    def _retry_elsewhere(self, task: _Task, actor: Actor, error: Exception) -> Iterator[JobEvent]:
        """Have a job go on in another process, unless it seems to be the reason."""
        task.deaths, task.is_told = task.deaths + 1, False
        _log.warning("%s, which trained '%s', was lost: %s", actor.place, task.job.name, _first_line(error))
        if task.job.run.is_stopped:
            yield task.job, None
        elif task.deaths <= _MOST_RETRIES:
            self._retries.append(task)
        else:
            sentence = (
                f"{task.deaths} worker processes died while they trained '{task.job.name}', the last one being "
                f"{actor.place}: look there for what ended it, which often is full memory, and retry the job."
            )
            yield task.job, HostError(sentence)

    def _pass_on_stops(self) -> None:
        for task, actor in self._busy.values():
            if task.job.run.is_stopped and not task.is_told:
                task.is_told = True
                actor.handle.stop.remote(task.job.id)

    def _warn(self, *, is_alive: bool) -> None:
        now = time.monotonic()
        if is_alive:
            self._latest = now
        elif now - self._latest > _PATIENCE:
            self._latest = now
            _log.warning("no worker process has started for %d s: 'ray status' tells what is missing", _PATIENCE)

    def _kill(self, handle: Any) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(handle)


def _reason(error: Any) -> Exception:
    """What was raised in the other process; its traceback there goes with it."""
    cause = getattr(error, "cause", None)
    if not isinstance(cause, Exception):
        return HostError(f"a worker process cannot be started ({_first_line(error)}): see the cluster's logs.")
    cause.__cause__ = error
    return cause


def _first_line(error: object) -> str:
    """Of what Ray says, which is much."""
    return str(error).strip().partition("\n")[0].rstrip(".")
