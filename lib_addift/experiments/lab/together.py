"""Two LoRAs of one method attached at once, each at weight 1."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lib_addift.demo import world
from lib_addift.demo.evaluate import evaluation_faces
from lib_addift.experiments.lab import metrics
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.cell import Cell
from lib_addift.experiments.lab.tasks import TASKS
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork

_FACES_SEED = 73_000


@dataclass(frozen=True)
class Couple:
    """The LoRAs of two tasks, trained by one variant with one seed."""

    first: str
    second: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.first}+{self.second}_{self.variant}_{self.seed}"

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.first, self.second


def measure_couple(bench: Bench, couple: Couple) -> dict[str, Any]:
    """How often each value is shown with its LoRA alone, and both with both. Raises LoraFileError without the files."""
    tasks = [TASKS[name] for name in couple.tasks]
    names = [Cell(task.name, couple.variant, couple.seed).name for task in tasks]
    networks = [bench.network(read_lora(bench.host.lora_dir / f"{name}.safetensors")[0]) for name in names]
    faces = evaluation_faces(bench.scale.faces, _FACES_SEED + couple.seed, excluded=[task.face for task in tasks])
    prompts = [world.caption(face, frozenset(task.name for task in tasks)) for face in faces]

    def hits(*acting: LoraNetwork) -> list[list[bool]]:
        with ExitStack() as attached:
            for network in acting:
                attached.enter_context(network.attach())
            pictures = bench.draw(prompts, couple.seed)
        return [[task.is_hit(picture) for picture in pictures] for task in tasks]

    first, second = (metrics.share(hits(network)[n]) for n, network in enumerate(networks))
    both = metrics.both(*hits(*networks))
    return {"first_alone": first, "second_alone": second, "product": first * second, "both": both}
