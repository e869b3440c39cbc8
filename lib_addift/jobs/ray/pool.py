"""Who does what in a Ray cluster: jobs handed out to worker processes, and what becomes of their answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lib_addift.errors import AddiftError, HostError
from lib_addift.jobs.ray.actor import Learnt, Order, Written
from lib_addift.training.events import Event, ResumeState

if TYPE_CHECKING:
    from lib_addift.jobs.queue import Job
    from lib_addift.jobs.ray.runner import RayRunner
    from lib_addift.jobs.worker import Said, Take

_log = logging.getLogger(__name__)

_MOST_RETRIES = 3  # of a job whose process died
_MOST_FAILED_STARTS = 3  # of processes, one after the other
_POLL = 0.5  # seconds between looks at what was stopped and at what joined the cluster
_PATIENCE = 60.0  # seconds without a process until that is said


@dataclass(eq=False)
class _Task:
    """A job that was taken, and how far it is."""

    job: Job
    order: Order
    deaths: int = 0  # of its processes
    is_told: bool = False  # that it was stopped


@dataclass(frozen=True, eq=False)
class _Hand:
    """A worker process that has the model."""

    actor: Any
    place: str


class Shift:
    """One `RayRunner.run`: from the first process to the last job."""

    def __init__(self, ray: Any, runner: RayRunner, take: Take) -> None:
        self._ray, self._runner, self._take = ray, runner, take
        self._starting: dict[Any, Any] = {}  # actor by the reference that says that it is ready
        self._idle: list[_Hand] = []
        self._busy: dict[Any, tuple[_Task, _Hand]] = {}  # by stream of events
        self._again: list[_Task] = []  # whose process died
        self._failed_starts: list[Exception] = []  # since the latest process that did start
        self._latest = time.monotonic()  # when something worked

    def work(self) -> Iterator[Said]:
        """Until nothing is left to do."""
        while not self._idle or self._busy:
            self._hire()
            ready = self._wait()
            for one in ready:
                if one in self._busy:
                    yield from self._listen(one)
                else:
                    self._welcome(one)
            if len(self._failed_starts) >= _MOST_FAILED_STARTS and not self._idle and not self._busy:
                yield from self._give_up(self._failed_starts[-1])
                return
            self._pass_on_stops()
            yield from self._hand_out()
            self._warn(is_alive=bool(ready or self._busy))

    def _wait(self) -> list[Any]:
        """Everything that has news; after a while nothing."""
        waiting = [*self._starting, *self._busy]
        ready, _ = self._ray.wait(waiting, timeout=_POLL)
        if ready:  # and what else there is, so that a quick one does not keep the others from being heard
            ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return list(ready)

    def _give_up(self, error: Exception) -> Iterator[Said]:
        """No process starts: all jobs fail."""
        yield from ((task.job, error) for task in self._again)
        while job := self._take(lambda _job: True):
            yield job, error

    def dismiss(self) -> None:
        """End all worker processes."""
        hands = [*self._idle, *(hand for _task, hand in self._busy.values())]
        for actor in [*self._starting.values(), *(hand.actor for hand in hands)]:
            self._kill(actor)

    def _hire(self) -> None:
        """Start processes, up to twice as many as work, so that one job does not take the whole cluster."""
        wanted = min(self._runner.most_workers(), max(1, 2 * len(self._busy) + len(self._again)))
        for _ in range(wanted - len(self._starting) - len(self._idle) - len(self._busy)):
            actor, ready = self._runner.hire()
            self._starting[ready] = actor

    def _welcome(self, ready: Any) -> None:
        """Take in a process that has the model, or learn that it did not start."""
        actor = self._starting.pop(ready)
        try:
            self._idle.append(_Hand(actor, self._ray.get(ready)))
            self._failed_starts.clear()
        except self._ray.exceptions.RayError as error:
            self._kill(actor)
            self._failed_starts.append(_reason(error))
            _log.warning("a worker process did not start: %s", self._failed_starts[-1])

    def _hand_out(self) -> Iterator[Said]:
        """Give every process that is free a job; none is free afterwards, or no job is left."""
        while self._idle:
            if self._again:
                task = self._again.pop(0)
            elif job := self._take(lambda _job: True):
                try:
                    task = _Task(job, self._runner.order(job))
                except Exception as error:  # the job ends here, the others go on
                    yield job, error
                    continue
            else:
                return
            hand = self._idle.pop()
            step = task.order.checkpoint.step if task.order.checkpoint else 0
            _log.info("training '%s' from step %d on in %s", task.job.name, step, hand.place)
            stream = hand.actor.train.options(num_returns="streaming").remote(task.order)
            self._busy[stream] = task, hand

    def _listen(self, stream: Any) -> Iterator[Said]:
        """Take in what one worker says next."""
        task, hand = self._busy[stream]
        errors = self._ray.exceptions
        try:
            event = self._ray.get(next(stream))
            yield from self._taken_in(task, event)
        except StopIteration:
            del self._busy[stream]
            self._idle.append(hand)
            yield task.job, None
        except errors.RayTaskError as error:  # the job failed there
            reason = _reason(error)
            del self._busy[stream]
            if isinstance(reason, AddiftError):
                self._idle.append(hand)
            else:  # an error of the GPU, say, after which nothing works in that process
                self._kill(hand.actor)
            yield task.job, reason
        except errors.RayError as error:  # the process died, or what it said was lost with its machine
            del self._busy[stream]
            self._kill(hand.actor)
            yield from self._lost(task, hand, error)
        except AddiftError as error:  # the LoRA cannot be written here
            del self._busy[stream]
            self._kill(hand.actor)
            yield task.job, error

    def _taken_in(self, task: _Task, said: Event | Written | Learnt) -> Iterator[Said]:
        if isinstance(said, Written):
            self._runner.put(said, task.job)
        elif isinstance(said, Learnt):
            task.job.run.set_partial_result(said.step, said.train_seconds, said.tensors)
        else:
            if isinstance(said, ResumeState):
                task.order = replace(task.order, checkpoint=said)
            yield task.job, said

    def _lost(self, task: _Task, hand: _Hand, error: Exception) -> Iterator[Said]:
        """Have a job go on elsewhere, unless it seems to be the reason."""
        task.deaths, task.is_told = task.deaths + 1, False
        _log.warning("%s, which trained '%s', was lost: %s", hand.place, task.job.name, _first_line(error))
        if task.job.run.is_stopped:
            yield task.job, None
        elif task.deaths <= _MOST_RETRIES:
            self._again.append(task)
        else:
            sentence = (
                f"{task.deaths} worker processes died while they trained '{task.job.name}', the last one being "
                f"{hand.place}: look there for what ended it, which often is full memory, and retry the job."
            )
            yield task.job, HostError(sentence)

    def _pass_on_stops(self) -> None:
        for task, hand in self._busy.values():
            if task.job.run.is_stopped and not task.is_told:
                task.is_told = True
                hand.actor.stop.remote(task.job.id)

    def _warn(self, *, is_alive: bool) -> None:
        now = time.monotonic()
        if is_alive:
            self._latest = now
        elif now - self._latest > _PATIENCE:
            self._latest = now
            _log.warning("no worker process has started for %d s: 'ray status' tells what is missing", _PATIENCE)

    def _kill(self, actor: Any) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)


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
