"""One cell of the table: train a variant on a task with one seed and measure the LoRA."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource, load_pair
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.latents import LatentPair, encode_pair
from lib_addift.evaluation.round_trip import LEARNT, round_trip
from lib_addift.experiments.lab import metrics
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.picture_metrics import WEIGHTS, picture_metrics
from lib_addift.experiments.lab.tasks import TASKS, LabTask
from lib_addift.experiments.lab.variants import VARIANTS, Variant
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Request, Result
from lib_addift.training.methods import make_config, method_of, total_steps
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport

ENOUGH = 0.9  # share of hits from which on a task counts as learnt
_KEPT = (0.08, 0.17, 0.25, 0.33, 0.5, 0.67, 0.83, 1.0)  # shares of all steps after which a copy of the LoRA is kept


@dataclass(frozen=True)
class Cell:
    """A task, a variant and a seed."""

    task: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its files and of its LoRA."""
        return f"{self.task}_{self.variant}_{self.seed}"

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.task,)


@dataclass(frozen=True, eq=False)
class KeptLora:
    """The LoRA that the method would return after `step` steps, before calibration."""

    step: int
    seconds: float  # CPU time of one core since the start
    tensors: dict[str, torch.Tensor]


def measure_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Train, draw and measure; the LoRA is saved to the host's folder. Returns the figures.

    Raises AddiftError when the method gives no LoRA.
    """
    task, variant, scale = TASKS[cell.task], VARIANTS[cell.variant], bench.scale
    scene, faces = bench.scene(task, cell.seed), task.new_faces(cell.seed, scale.faces)
    if variant.in_words:
        prompts = {weight: [task.prompt_in_words(face, shown=weight > 0) for face in faces] for weight in (-1.0, 1.0)}
        return picture_metrics(
            task, faces, scene, {weight: bench.draw(said, cell.seed) for weight, said in prompts.items()}
        )
    config = variant.config(task, cell.seed)
    result, kept = _train(bench.host, cell, config)
    network = bench.network(read_lora(result.path)[0])
    plain = [task.prompt(face) for face in faces]
    counts = {w: scale.faces if abs(w) == 1 else scale.growth_faces for w in WEIGHTS if w}
    with network.attach():
        drawn = {w: bench.draw(plain[:count], cell.seed, network, w) for w, count in counts.items()}
    figures = picture_metrics(task, faces, scene, drawn) | _recovery(bench, task, cell.seed, network)
    figures |= {"steps": result.steps, "seconds": round(kept[-1].seconds, 2)}
    if figures["hits"] >= ENOUGH:
        figures |= _StepSearch(bench, task, variant, cell.seed).search(kept)
    return figures


def _train(host: Host, cell: Cell, config: TrainConfig) -> tuple[Result, list[KeptLora]]:
    """Train on the cell's pictures; also returns the LoRAs of some steps."""
    task, variant = TASKS[cell.task], VARIANTS[cell.variant]
    pairs = task.pairs(cell.seed, variant.pairs)
    if task.kind in variant.swapped:
        pairs = [(target, original) for original, target in pairs]
    run = TrainingRun(host, Request(tuple(PairSource(*pair) for pair in pairs), cell.name, config, overwrite=True))
    total = total_steps(config, len(pairs))
    marks = {max(1, round(total * part)) for part in _KEPT}
    kept: list[KeptLora] = []
    begun = time.process_time()  # CPU time of this process, so that others on the machine do not count
    for event in run.events():
        if isinstance(event, StepReport) and event.step in marks and run.state.has_result:
            seconds = time.process_time() - begun
            kept.append(KeptLora(event.step, seconds, method_of(config).result(run.state.networks).tensors()))
    return run.results[-1], kept


def _recovery(bench: Bench, task: LabTask, seed: int, network: LoraNetwork) -> dict[str, Any]:
    """How much of the pair's difference the file reproduces at its best weight, and that weight.

    Measured alike for all methods, with the mask of the task's preset. The recovery is 0 where that weight is negative.
    """
    config = make_config(task.preset)
    with bench.host.exclusive(), network.attach():
        trip = round_trip(bench.host, network, _latents(bench.host, task.pairs(seed), config), config)
    return {"recovery": trip.recovery if trip.weight > 0 else 0.0, "best_weight": trip.weight}


def _latents(host: Host, pairs: Sequence[tuple[Image.Image, Image.Image]], config: TrainConfig) -> list[LatentPair]:
    return [encode_pair(host, load_pair(*pair, config), config) for pair in pairs]


class _StepSearch:
    """Finds the first kept step at which 90 % of the faces show the value at weight 1.

    Each kept LoRA is calibrated if its method calibrates. Its learning rate has not decayed yet, so a run of only that
    many steps may do better.
    """

    def __init__(self, bench: Bench, task: LabTask, variant: Variant, seed: int) -> None:
        self._bench, self._task, self._seed = bench, task, seed
        self._config = variant.config(task, seed)
        self._prompts = [task.prompt(face) for face in task.new_faces(seed, bench.scale.probe_faces)]
        with bench.host.exclusive():
            self._pairs = _latents(bench.host, task.pairs(seed, variant.pairs), self._config)

    def search(self, kept: Sequence[KeptLora]) -> dict[str, Any]:
        """The step and its CPU seconds on one core since the start; the last one of `kept` must be enough."""
        by_step = {each.step: each for each in kept}
        step = metrics.first_reached(list(by_step), lambda step: self._is_enough(by_step[step]))
        return {"steps_to_90": step, "seconds_to_90": round(by_step[step].seconds, 2)}

    def _is_enough(self, kept: KeptLora) -> bool:
        network, weight = self._bench.network(kept.tensors), self._config.strength
        with network.attach():
            if self._config.calibrate:
                with self._bench.host.exclusive():
                    trip = round_trip(self._bench.host, network, self._pairs, self._config)
                weight *= trip.weight if trip.recovery >= LEARNT else 1.0
            pictures = self._bench.draw(self._prompts, self._seed, network, weight)
        return metrics.share([self._task.is_hit(picture) for picture in pictures]) >= ENOUGH
