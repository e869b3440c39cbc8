"""Measures the cells of the table in several processes and stores their figures; a second call resumes."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lib_addift.demo.run import CHECKPOINT
from lib_addift.diffusion.host import Host
from lib_addift.errors import AddiftError, TrainingError
from lib_addift.experiments.lab.bench import Bench, Scale
from lib_addift.experiments.lab.cell import Cell, measure_cell
from lib_addift.experiments.lab.tasks import TASKS
from lib_addift.experiments.lab.together import Couple, measure_couple
from lib_addift.experiments.lab.variants import VARIANTS
from lib_addift.files import replace_files

Work = Cell | Couple
COUPLES = (("eyes", "mouth"),)  # tasks whose LoRAs are also used at once


@dataclass(frozen=True)
class LabPlan:
    """The tasks, variants and seeds to measure."""

    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    scale: Scale

    @property
    def cells(self) -> list[Cell]:
        """Ordered by seed, so that an interrupted run has all rows of the first seeds."""
        return [
            Cell(task, variant, seed)
            for seed in self.seeds
            for task in self.tasks
            for variant in self.variants
            if TASKS[task].is_known or not VARIANTS[variant].in_words
        ]

    @property
    def couples(self) -> list[Couple]:
        return [
            Couple(first, second, variant, seed)
            for seed in self.seeds
            for first, second in COUPLES
            for variant in self.variants
            if {first, second} <= set(self.tasks) and not VARIANTS[variant].in_words
        ]


@dataclass(frozen=True)
class Done:
    """The result of a cell or couple: its figures, or why there are none."""

    work: Work
    figures: dict[str, Any]
    error: str = ""
    seconds: float = 0.0  # wall-clock time; 0: measured by an earlier call


def run_plan(plan: LabPlan, out: Path, workers: int, tell: Callable[[Done, int, int], None]) -> list[Done]:
    """Measure what has not been measured yet; calls `tell` with each result, how many are done, and of how many.

    Raises TrainingError when a worker process dies.
    """
    everything: list[Work] = [*plan.cells, *plan.couples]
    result: list[Done] = []
    for stage in (plan.cells, plan.couples):  # couples use the cells' LoRAs
        for done in _run(stage, plan.scale, out, workers):
            result.append(done)
            tell(done, len(result), len(everything))
    return result


def _run(stage: Sequence[Work], scale: Scale, out: Path, workers: int) -> Iterator[Done]:
    left = []
    for work in stage:
        kept = read_done(work, scale, out)
        if kept is None:
            left.append(work)
        else:
            yield kept
    if workers == 1:
        with _one_thread():
            yield from (do(work, scale, out) for work in left)
        return
    with _pool(min(workers, max(len(left), 1))) as pool:
        futures: list[Future[Done]] = [pool.submit(do, work, scale, out) for work in left]
        try:
            for future in as_completed(futures):
                yield future.result()
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


def do(work: Work, scale: Scale, out: Path) -> Done:
    """Measure a cell or couple and store the result in a JSON file."""
    begun = time.monotonic()
    bench = Bench(_host(out / "loras"), scale, out / "scenes")
    figures: dict[str, Any] = {}
    error = ""
    try:
        figures = _plain(measure_couple(bench, work) if isinstance(work, Couple) else measure_cell(bench, work))
    except AddiftError as reason:
        error = str(reason)
    seconds = time.monotonic() - begun
    content = {"asked": _asked(work, scale), "figures": figures, "error": error, "clock_seconds": seconds}
    path = _path(work, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_files({path: json.dumps(content, indent=1).encode()}, durable=False)
    return Done(work, figures, error, seconds)


def read_done(work: Work, scale: Scale, out: Path) -> Done | None:
    """The result stored by an earlier call; None without one, or when it was measured with other settings."""
    try:
        content = json.loads(_path(work, out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("asked") != _asked(work, scale):
        return None
    return Done(work, content["figures"], content["error"])


def all_done(scale: Scale, out: Path) -> list[Done]:
    """All stored results of this scale, in the order of the tables."""
    names = [path.stem.rpartition("_")[2] for path in (out / "cells").glob("*.json")]
    seeds = sorted({int(name) for name in names if name.isdecimal()})
    whole = LabPlan(tuple(TASKS), tuple(VARIANTS), tuple(seeds), scale)
    everything: list[Work] = [*whole.cells, *whole.couples]
    found = [read_done(work, scale, out) for work in everything]
    return [done for done in found if done is not None]


def _asked(work: Work, scale: Scale) -> dict[str, Any]:
    """Everything but the program that the figures depend on; a stored result with other values is measured again."""
    variant = VARIANTS[work.variant]
    asked: dict[str, Any] = {
        "work": asdict(work),
        "scale": asdict(scale),
        "settings": [variant.config(TASKS[task], work.seed).to_dict() for task in work.tasks],
        "pairs": variant.pairs,
        "swapped": [TASKS[task].kind in variant.swapped for task in work.tasks],
    }
    return asked


def _path(work: Work, out: Path) -> Path:
    return out / ("couples" if isinstance(work, Couple) else "cells") / f"{work.name}.json"


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures for JSON: None for NaN, floats rounded to four digits."""
    plain = {}
    for name, value in figures.items():
        is_number = isinstance(value, float)
        plain[name] = None if is_number and math.isnan(value) else round(value, 4) if is_number else value
    return plain


@cache
def _host(lora_dir: Path) -> Host:
    """The bundled model, loaded once by each process."""
    from lib_addift.hosts.standalone import StandaloneHost

    return StandaloneHost(CHECKPOINT, lora_dir=lora_dir, device="cpu")
