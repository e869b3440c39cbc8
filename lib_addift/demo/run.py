"""The demo: train one attribute of the tiny world from a single pair, then evaluate the LoRA on 64 new faces."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.demo import world
from lib_addift.demo.evaluate import Scores, evaluate, evaluation_faces
from lib_addift.diffusion.host import Host
from lib_addift.evaluation.preview import labelled_grid
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Request, Result
from lib_addift.training.run import TrainingRun

CHECKPOINT = Path(__file__).parent / "tiny_faces.safetensors"
CHECKPOINTS = {"sd15": CHECKPOINT, "sdxl": CHECKPOINT.with_name("tiny_faces_xl.safetensors")}
FACES = 64
_EVALUATION_SEED = 20_000


@dataclass(frozen=True)
class Task:
    """One attribute to learn: its first and its new value, and the LoRA's name."""

    attribute: str
    without: str
    value: str
    name: str

    def faces(self, seed: int) -> tuple[world.Face, world.Face]:
        """The training pair of a seed: a random face without the value, and the same one with it."""
        face = world.random_face(random.Random(seed), **{self.attribute: self.without})
        changed: dict[str, Any] = {self.attribute: self.value}
        return face, dataclasses.replace(face, **changed)


TASKS = {
    task.attribute: task
    for task in (
        Task("eyes", "open", "closed", "closed_eyes"),
        Task("mouth", "smiling", "open", "open_mouth"),
        Task("style", "flat", "textured", "textured_style"),
    )
}


def run_demo(
    host: Host, task: Task, config: TrainConfig, out: Path, follow: Callable[[TrainingRun], Result]
) -> dict[str, Any]:
    """Train, evaluate, and write the LoRA, `grid.png` and `report.json` to `out`; returns the report.

    `follow` runs the training and shows its progress.
    """
    original, target = task.faces(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    world.draw(original).save(out / "original.png")
    world.draw(target).save(out / "target.png")
    if not config.preview_prompt:
        config = dataclasses.replace(config, preview_prompt=world.caption(original, frozenset({task.attribute})))
    request = Request.of(out / "original.png", out / "target.png", task.name, config, overwrite=True)
    result = follow(TrainingRun(host, request))
    network = LoraNetwork.from_tensors(read_lora(result.path)[0], host.unet, host.lora_name)
    faces = evaluation_faces(FACES, _EVALUATION_SEED, excluded=(original, target))
    scores = evaluate(host, network, faces, attribute=task.attribute, value=task.value, seed=_EVALUATION_SEED)
    picture_grid(scores).save(out / "grid.png")
    report = {
        "lora": str(result.path),
        "steps": result.steps,
        "train_seconds": round(result.train_seconds, 2),
        "base_rate": scores.base_rate,
        "target_rate": scores.target_rate,
        "reverse_rate": scores.reverse_rate,
        "off_target_change": scores.off_target_change,
        "recovery": round(result.round_trip.recovery, 4),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def picture_grid(scores: Scores, columns: int = 8) -> Image.Image:
    """Each evaluated face at weights -1, 0 and 1 side by side, `columns` faces a row."""
    faces = zip(*(scores.pictures[weight] for weight in (-1.0, 0.0, 1.0)), strict=True)
    cells = [picture for face in faces for picture in face]
    return labelled_grid(np.stack(cells), ["-1", "0", "+1"] * (len(cells) // 3), 3 * columns)
