"""One cell of the table, a task, a variant and a seed: it is trained, with others in one pass, and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib_addift.errors import AddiftError
from lib_addift.evaluation.verdict import Level
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.evaluation import Evaluation
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.experiments.lab.variants import VARIANTS, Variant
from lib_addift.experiments.lab.worlds import TASKS
from lib_addift.lora.file import read_lora
from lib_addift.training.dataset import with_usual_steps
from lib_addift.training.events import Request, Result
from lib_addift.training.joint import can_share, train_runs
from lib_addift.training.run import TrainingRun
from lib_addift.training.search import new_run


@dataclass(frozen=True)
class Cell:
    """A task of a world, a variant and a seed."""

    world: str
    task: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its files and of its LoRA."""
        return f"{self.world}_{self.task}_{self.variant}_{self.seed}"

    @property
    def lab_task(self) -> LabTask:
        return TASKS[self.world][self.task]

    @property
    def way(self) -> Variant:
        return VARIANTS[self.variant]


def said_good(result: Result) -> bool:
    """Whether the result told the person that the LoRA works: what false assurance and false alarm are counted by."""
    return result.level is Level.GOOD


def train_cells(bench: Bench, cells: Sequence[Cell]) -> Mapping[Cell, Result | AddiftError]:
    """Train the LoRAs of cells of one task and variant, together where they fit into one pass; saved by the host.

    Returns what came of each, or why nothing did.
    """
    runs: dict[Cell, TrainingRun] = {}
    ends: dict[Cell, Result | AddiftError] = {}
    for cell in cells:
        try:
            runs[cell] = new_run(bench.host, _request(bench, cell))
        except AddiftError as error:
            ends[cell] = error
    for group in _groups(runs):
        ends |= _train({cell: runs[cell] for cell in group})
    return ends


def measure_words(bench: Bench, cell: Cell) -> dict[str, Any]:
    """The figures of the prompt alone."""
    return Evaluation(bench, cell.lab_task, cell.seed).of_words()


def measure_result(bench: Bench, cell: Cell, result: Result) -> dict[str, Any]:
    """Draw with the saved LoRA and measure. Returns the figures."""
    trip = result.round_trip
    network = bench.network(read_lora(result.path)[0])
    return {
        **Evaluation(bench, cell.lab_task, cell.seed).of_lora(network),
        "recovery": trip.recovery if trip.weight > 0 else 0.0,
        "best_weight": trip.weight,
        "said_good": said_good(result),
        "steps": result.steps,
    }


def _request(bench: Bench, cell: Cell) -> Request:
    """The training of a cell; a set of pairs gets the steps that a set gets."""
    task, variant = cell.lab_task, cell.way
    pairs = tuple(variant.sources(bench, task, cell.seed))
    config = with_usual_steps(variant.config(task, cell.seed), pairs, variant.settings)
    return Request(pairs, cell.name, config, overwrite=True)


def _groups(runs: Mapping[Cell, TrainingRun]) -> Iterator[list[Cell]]:
    """The cells whose runs go through the model in one pass: all, or each alone."""
    cells = list(runs)
    if len(cells) > 1 and all(can_share(runs[cells[0]], run) for run in runs.values()):
        yield cells
    else:
        yield from ([cell] for cell in cells)


def _train(runs: Mapping[Cell, TrainingRun]) -> dict[Cell, Result | AddiftError]:
    """Do the runs; errors of one run that are not the project's own are raised."""
    ends: dict[Cell, Result | AddiftError] = {}
    cells = {id(run): cell for cell, run in runs.items()}
    for run, event in train_runs(list(runs.values())):
        if isinstance(event, AddiftError):
            ends[cells[id(run)]] = event
        elif isinstance(event, Exception):
            raise event
    return {cell: run.results[-1] for cell, run in runs.items() if cell not in ends} | ends
