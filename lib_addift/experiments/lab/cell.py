"""One cell of the table: a method trains on a task with one seed, and what it learnt is measured."""

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
from lib_addift.experiments.lab import measures
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.look import WEIGHTS, look
from lib_addift.experiments.lab.tasks import TASKS, Task
from lib_addift.experiments.lab.variants import VARIANTS, Variant
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Request, Result
from lib_addift.training.methods import method_of, total_steps
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport

ENOUGH = 0.9  # share of hits that counts as learnt
_KEPT = (0.08, 0.17, 0.25, 0.33, 0.5, 0.67, 0.83, 1.0)  # shares of all steps after which the LoRA is kept


@dataclass(frozen=True)
class Cell:
    """A place in the table."""

    task: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files and of its LoRA."""
        return f"{self.task}_{self.variant}_{self.seed}"

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.task,)


@dataclass(frozen=True, eq=False)
class Kept:
    """The LoRA as the method would have given it after so many steps, before calibration."""

    step: int
    seconds: float  # of one core, since the beginning
    tensors: dict[str, torch.Tensor]


def measure_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Train, draw and measure; the LoRA goes to the host's folder. Returns the figures.

    Raises AddiftError when the method gives no LoRA.
    """
    task, variant, scale = TASKS[cell.task], VARIANTS[cell.variant], bench.scale
    scene, faces = bench.scene(task, cell.seed), task.new_faces(cell.seed, scale.faces)
    if variant.in_words:
        prompts = {weight: [task.prompt_in_words(face, shown=weight > 0) for face in faces] for weight in (-1.0, 1.0)}
        return look(task, faces, scene, {weight: bench.draw(said, cell.seed) for weight, said in prompts.items()})
    config = variant.config(task, cell.seed)
    result, kept = _train(bench.host, cell, config)
    network = bench.network(read_lora(result.path)[0])
    plain = [task.prompt(face) for face in faces]
    counts = {w: scale.faces if abs(w) == 1 else scale.growth_faces for w in WEIGHTS if w}
    with network.attach():
        drawn = {w: bench.draw(plain[:count], cell.seed, network, w) for w, count in counts.items()}
    figures = look(task, faces, scene, drawn) | _recovery(bench, task, cell.seed, network)
    figures |= {"steps": result.steps, "seconds": round(kept[-1].seconds, 2)}
    if figures["hits"] >= ENOUGH:
        figures |= _Reached(bench, task, variant, cell.seed).search(kept)
    return figures


def _train(host: Host, cell: Cell, config: TrainConfig) -> tuple[Result, list[Kept]]:
    """Train on the cell's pictures and keep the LoRA of some steps."""
    task, variant = TASKS[cell.task], VARIANTS[cell.variant]
    pairs = task.pairs(cell.seed, variant.pairs)
    if task.kind in variant.swapped:
        pairs = [(target, original) for original, target in pairs]
    run = TrainingRun(host, Request(tuple(PairSource(*pair) for pair in pairs), cell.name, config, overwrite=True))
    total = total_steps(config, len(pairs))
    marks = {max(1, round(total * part)) for part in _KEPT}
    kept: list[Kept] = []
    begun = time.process_time()  # of this process: others on the machine do not count
    for event in run.events():
        if isinstance(event, StepReport) and event.step in marks and run.state.has_result:
            seconds = time.process_time() - begun
            kept.append(Kept(event.step, seconds, method_of(config).result(run.state.networks).tensors()))
    return run.results[-1], kept


def _recovery(bench: Bench, task: Task, seed: int, network: LoraNetwork) -> dict[str, Any]:
    """How much of the pair's difference the file reproduces at its best weight, and which one that is.

    Measured alike for all methods, with the mask of the task's preset. What is best at a negative weight has none.
    """
    config = TrainConfig.create(task.preset)
    with bench.host.exclusive(), network.attach():
        proof = round_trip(bench.host, network, _latents(bench.host, task.pairs(seed), config), config)
    return {"recovery": proof.recovery if proof.weight > 0 else 0.0, "best_weight": proof.weight}


def _latents(host: Host, pairs: Sequence[tuple[Image.Image, Image.Image]], config: TrainConfig) -> list[LatentPair]:
    return [encode_pair(host, load_pair(*pair, config), config) for pair in pairs]


class _Reached:
    """Looks for the step at which 90 % of the faces first showed the value at weight 1.

    Each kept LoRA is calibrated as its method would have done. Its learning rate has not come down yet, so a run of
    only so many steps may do better.
    """

    def __init__(self, bench: Bench, task: Task, variant: Variant, seed: int) -> None:
        self._bench, self._task, self._seed = bench, task, seed
        self._config = variant.config(task, seed)
        self._prompts = [task.prompt(face) for face in task.new_faces(seed, bench.scale.probe_faces)]
        with bench.host.exclusive():
            self._pairs = _latents(bench.host, task.pairs(seed, variant.pairs), self._config)

    def search(self, kept: Sequence[Kept]) -> dict[str, Any]:
        """Steps and seconds of one core, from the pictures on; the last one of `kept` must be enough."""
        by_step = {each.step: each for each in kept}
        step = measures.first_reached(list(by_step), lambda step: self._is_enough(by_step[step]))
        return {"steps_to_90": step, "seconds_to_90": round(by_step[step].seconds, 2)}

    def _is_enough(self, kept: Kept) -> bool:
        network, weight = self._bench.network(kept.tensors), self._config.strength
        with network.attach():
            if self._config.calibrate:
                with self._bench.host.exclusive():
                    proof = round_trip(self._bench.host, network, self._pairs, self._config)
                weight *= proof.weight if proof.recovery >= LEARNT else 1.0
            pictures = self._bench.draw(self._prompts, self._seed, network, weight)
        return measures.share([self._task.is_hit(picture) for picture in pictures]) >= ENOUGH
