"""Measures the cells of the table in several processes and stores their figures; a second call resumes."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lib_addift.diffusion.host import Host
from lib_addift.errors import AddiftError, TrainingError
from lib_addift.experiments.lab.bench import Bench, Scale
from lib_addift.experiments.lab.cell import Cell, measure_result, measure_words, train_cells
from lib_addift.experiments.lab.tasks import HALVES
from lib_addift.experiments.lab.variants import VARIANTS
from lib_addift.experiments.lab.worlds import TASKS, WORLDS
from lib_addift.files import replace_files

JOINT = 4  # seeds of a task and variant that are trained in one pass
Group = tuple[Cell, ...]  # cells of one task and variant


@dataclass(frozen=True)
class LabPlan:
    """The tasks and variants of a world to measure, on one half of the seeds; without `seeds` on each task's own."""

    world: str
    half: str
    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    scale: Scale
    seeds: tuple[int, ...] = ()

    @property
    def groups(self) -> list[Group]:
        """The cells, in parts that are trained together; the first seeds first, so that an early end has all rows."""
        most = max(len(self._seeds(task)) for task in self.tasks)
        groups = []
        for first in range(0, most, JOINT):
            for task in self.tasks:
                seeds = self._seeds(task)[first : first + JOINT]
                for variant in self.variants:
                    if seeds and VARIANTS[variant].can_do(TASKS[self.world][task]):
                        groups.append(tuple(Cell(self.world, task, variant, seed) for seed in seeds))
        return groups

    @property
    def cells(self) -> list[Cell]:
        return [cell for group in self.groups for cell in group]

    def _seeds(self, task: str) -> tuple[int, ...]:
        return self.seeds or tuple(HALVES[self.half][: TASKS[self.world][task].seeds])


@dataclass(frozen=True)
class Done:
    """The result of a cell: its figures, or why there are none but its CPU seconds."""

    cell: Cell
    figures: dict[str, Any]
    error: str = ""
    seconds: float = 0.0  # CPU time of one thread; 0: measured by an earlier call


def run_plan(plan: LabPlan, out: Path, workers: int, tell: Callable[[Done, int, int], None]) -> list[Done]:
    """Measure what has not been measured yet; calls `tell` with each result, how many are done, and of how many.

    Raises TrainingError when a worker process dies.
    """
    total, result = len(plan.cells), []
    for done in _run(plan, out, workers):
        result.append(done)
        tell(done, len(result), total)
    return result


def _run(plan: LabPlan, out: Path, workers: int) -> Iterator[Done]:
    left: list[Group] = []
    for group in plan.groups:
        kept = {cell: read_done(cell, plan.scale, out) for cell in group}
        yield from (done for done in kept.values() if done)
        if missing := tuple(cell for cell in group if not kept[cell]):
            left.append(missing)
    if workers == 1:
        with _one_thread():
            for group in left:
                yield from do_group(group, plan.scale, out)
        return
    with _pool(min(workers, max(len(left), 1))) as pool:
        futures: list[Future[list[Done]]] = [pool.submit(_do_all, group, plan.scale, out) for group in left]
        try:
            for future in as_completed(futures):
                yield from future.result()
        except BrokenProcessPool:
            raise TrainingError(
                "a worker process of the laboratory ended by itself, probably for want of memory: "
                "use fewer --workers. What was measured is kept."
            ) from None


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that is terminated at once when the block raises, such as on Ctrl-C."""
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _init_worker)
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread inside the block, as a worker does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _init_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the main one handles it


def _do_all(group: Group, scale: Scale, out: Path) -> list[Done]:
    return list(do_group(group, scale, out))


def do_group(group: Group, scale: Scale, out: Path) -> Iterator[Done]:
    """Train the cells of a group together, measure each and store its result in a JSON file."""
    first = group[0]
    bench = Bench(WORLDS[first.world], _host(first.world, out / "loras"), scale, out / "scenes")
    begun = time.process_time()
    results = {} if first.way.in_words else train_cells(bench, group)
    shared = (time.process_time() - begun) / len(group)
    for cell in group:
        begun, figures, error = time.process_time(), {}, ""
        try:
            result = results.get(cell)
            if isinstance(result, AddiftError):
                raise result
            figures = _plain(measure_result(bench, cell, result) if result else measure_words(bench, cell))
        except AddiftError as reason:
            error = str(reason)
        seconds = shared + time.process_time() - begun
        done = Done(cell, {**figures, "seconds": round(seconds, 1)}, error, seconds)
        _store(done, scale, out)
        yield done


def _store(done: Done, scale: Scale, out: Path) -> None:
    path = _path(done.cell, out)
    content = {"asked": _asked(done.cell, scale), "figures": done.figures, "error": done.error}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_files({path: json.dumps(content, indent=1).encode()}, durable=False)


def read_done(cell: Cell, scale: Scale, out: Path) -> Done | None:
    """The result stored by an earlier call; None without one, or when it was measured with other settings."""
    try:
        content = json.loads(_path(cell, out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("asked") != _asked(cell, scale):
        return None
    return Done(cell, content["figures"], content["error"])


def all_done(world: str, half: str, scale: Scale, out: Path) -> list[Done]:
    """All stored results of this scale in one half of a world, in the order of the tables."""
    found = []
    for task in TASKS[world]:
        for variant in VARIANTS:
            names = [path.stem for path in (out / "cells").glob(f"{world}_{task}_{variant}_*.json")]
            seeds = {int(number) for number in (name.rpartition("_")[2] for name in names) if number.isdecimal()}
            for seed in sorted(seeds & set(HALVES[half])):
                found.append(read_done(Cell(world, task, variant, seed), scale, out))
    return [done for done in found if done is not None]


def _asked(cell: Cell, scale: Scale) -> dict[str, Any]:
    """Everything but the program that the figures depend on; a stored result with other values is measured again."""
    task, variant = cell.lab_task, cell.way
    return {
        "cell": asdict(cell),
        "scale": asdict(scale),
        "settings": variant.config(task, cell.seed).to_dict(),
        "changes": {name: list(values) for name, values in task.changes.items()},
        "pairs": variant.words,
    }


def _path(cell: Cell, out: Path) -> Path:
    return out / "cells" / f"{cell.name}.json"


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures for JSON: None for NaN, floats rounded to four digits."""
    plain = {}
    for name, value in figures.items():
        is_number = isinstance(value, float)
        plain[name] = None if is_number and math.isnan(value) else round(value, 4) if is_number else value
    return plain


@cache
def _host(world: str, lora_dir: Path) -> Host:
    """The world's model, loaded once by each process."""
    from lib_addift.hosts.standalone import StandaloneHost

    return StandaloneHost(WORLDS[world].checkpoint, lora_dir=lora_dir, device="cpu")
