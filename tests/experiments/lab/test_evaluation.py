"""Figures of pictures that are perfect, and of damaged ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from lib_addift.experiments.lab.bench import Scale
from lib_addift.experiments.lab.evaluation import Evaluation
from lib_addift.experiments.lab.tasks import LabTask
from tests.support.lab import EACH_TASK, FACES_TASKS

COUNT, SEED = 6, 7
EYES = FACES_TASKS["eyes"]


class PaintedBench:
    """Paints what a perfect model and LoRA would draw; `damage` are values of what they draw beside the change."""

    def __init__(self, task: LabTask, damage: Mapping[str, str]) -> None:
        self.scale = Scale(faces=COUNT, growth_faces=3)
        self._task, self._damage = task, damage
        self._subjects = task.new_subjects(SEED, COUNT)
        self._words = {
            *(task.prompt_in_words(subject, shown=True) for subject in self._subjects if task.is_known),
            *(task.with_words(prompt) for prompt in task.short_prompts(self._subjects, SEED) if task.is_known),
        }

    def base(self, prompts: Sequence[str], _seed: int) -> np.ndarray:
        return np.stack([self._paint(n, float(prompt in self._words)) for n, prompt in enumerate(prompts)])

    def draw(
        self, prompts: Sequence[str], _seed: int, _network: Any, weight: float, *, numbers: Sequence[int] = ()
    ) -> np.ndarray:
        return np.stack([self._paint(n, min(max(weight, 0), 1)) for n in numbers or range(len(prompts))])

    def through_vae(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(pictures)

    def _paint(self, number: int, shown: float) -> np.ndarray:
        subject = self._subjects[number]
        damaged = subject.having(self._damage if shown else {})
        pictures = (np.asarray(self._task.paint(damaged, shown=s), dtype=float) for s in (False, True))
        original, target = pictures
        return original + shown * (target - original)


class NoLora:
    def attach(self) -> nullcontext[None]:
        return nullcontext()


def figures_of(task: LabTask, damage: Mapping[str, str] | None = None) -> dict[str, Any]:
    bench: Any = PaintedBench(task, damage or {})
    lora: Any = NoLora()
    return Evaluation(bench, task, SEED).of_lora(lora)


@EACH_TASK
def test_a_perfect_result_has_perfect_figures(task: LabTask) -> None:
    figures = figures_of(task)
    for prefix in ("", "short_", "empty_"):
        found = figures[f"{prefix}base_hits"], figures[f"{prefix}hits"], figures[f"{prefix}flips"]
        assert found == (0, 1, 0)
    assert figures["reverse_hits"] == figures["reverse_flips"] == figures["interference"] == figures["flips_at_2"] == 0
    assert figures["effects"][0] == 0
    assert figures["effects"][2] == figures["effects"][3] == 1
    assert 0 < figures["strength_at_half"] < 1
    assert figures["strength_at_2"] == 1
    if task.is_known:
        assert (figures["words_short_hits"], figures["words_short_flips"]) == (1, 0)
        words = Evaluation(PaintedBench(task, {}), task, SEED).of_words()  # type: ignore[arg-type]
        assert (words["hits"], words["reverse_hits"], words["short_hits"], words["short_flips"]) == (1, 0, 1, 0)


def test_damage_shows_in_the_figures() -> None:
    subjects = EYES.new_subjects(SEED, COUNT)
    share = sum(subject.values["mouth"] == "smiling" for subject in subjects) / COUNT
    assert 0 < share < 1
    figures = figures_of(EYES, {"mouth": "open"})
    for key in ("flips", "short_flips", "empty_flips", "words_short_flips"):
        assert figures[key] == pytest.approx(share)
    assert figures["interference"] > 0.2
    assert figures["hits"] == 1
    assert figures["reverse_flips"] == 0


def test_strength_is_measured_on_faces_that_do_not_show_the_change() -> None:
    """A face whose eyes are closed without the LoRA has no effect to show."""
    bench: Any = PaintedBench(EYES, {})
    paint = bench._paint
    bench._paint = lambda number, shown: paint(number, 1.0 if number < 4 else shown)
    lora: Any = NoLora()
    figures = Evaluation(bench, EYES, SEED).of_lora(lora)
    assert figures["base_hits"] == pytest.approx(4 / 6)
    assert figures["effects"][0] == 0
    bench._paint = lambda number, _shown: paint(number, 1.0)
    assert "effects" not in Evaluation(bench, EYES, SEED).of_lora(lora)
