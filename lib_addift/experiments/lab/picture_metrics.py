"""From faces drawn at several weights to the figures of a table row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib_addift.demo import world
from lib_addift.experiments.lab import metrics
from lib_addift.experiments.lab.bench import Scene
from lib_addift.experiments.lab.tasks import LabTask

WEIGHTS = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0)
Pictures = Mapping[float, np.ndarray]  # by weight, each (faces, 64, 64, 3) uint8; at some weights the first faces only


def picture_metrics(task: LabTask, faces: Sequence[world.Face], scene: Scene, drawn: Pictures) -> dict[str, Any]:
    """The figures of `faces` drawn at weights -1 and 1, and optionally at all of WEIGHTS; `scene.base` is weight 0."""
    pictures = {**drawn, 0.0: scene.base}
    hits = {weight: [task.is_hit(picture) for picture in batch] for weight, batch in pictures.items()}
    before, after, reverse = ([world.detect(picture) for picture in pictures[w]] for w in (0.0, 1.0, -1.0))
    areas = np.stack([task.area(face) for face in faces])
    figures: dict[str, Any] = {
        "base_hits": metrics.share(hits[0.0]),
        "hits": metrics.share(hits[1.0]),
        "reverse_hits": metrics.share(hits[-1.0]),
        "flips": metrics.flips(before, after, task.others),
        "reverse_flips": metrics.flips(before, reverse, task.others),
        "interference": metrics.interference(scene.base, pictures[1.0], areas),
    }
    if set(pictures) == set(WEIGHTS):
        figures |= _growth(task, scene, pictures)
    # Edges are measured where the LoRA added the value: shown with it and not without.
    new = [n for n in range(len(faces)) if hits[1.0][n] and not hits[0.0][n]]
    return figures | _edges(task, scene, pictures[1.0], {n: faces[n] for n in new})


def _growth(task: LabTask, scene: Scene, pictures: Pictures) -> dict[str, Any]:
    """How the effect depends on the weight."""
    count = min(map(len, pictures.values()))

    def levels(batch: np.ndarray) -> np.ndarray:
        return np.array([task.level(picture) for picture in batch[:count]])

    def readings(weight: float) -> list[dict[str, str]]:
        return [world.detect(picture) for picture in pictures[weight][:count]]

    shown = np.stack([levels(pictures[weight]) for weight in WEIGHTS])
    effects = metrics.effects(shown, levels(scene.original), levels(scene.target))
    means = effects.mean(axis=1)
    return {
        "monotony": metrics.monotony(effects),
        "linearity": metrics.linearity(WEIGHTS, means),
        "effects": [round(float(mean), 4) for mean in means],
        "flips_at_2": metrics.flips(readings(0.0), readings(2.0), task.others),
    }


def _edges(task: LabTask, scene: Scene, pictures: np.ndarray, faces: Mapping[int, world.Face]) -> dict[str, Any]:
    """Mean contrast and sharpness of what is learnt; `faces` by their index in the batch."""
    found = []
    for number, face in faces.items():
        target, mark = scene.target[number], task.mark_of(face)
        picture = metrics.aligned(pictures[number], target, mark)
        found.append((metrics.contrast(picture, target, mark), metrics.sharpness(picture, target, mark)))
    if not found:
        return {}
    contrast, sharpness = np.mean(found, axis=0)
    return {"contrast": float(contrast), "sharpness": float(sharpness)}
