"""The figures of a table row: new faces drawn under full, short and empty prompts, with a LoRA or with words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lib_addift.experiments.lab import metrics
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.lora.network import LoraNetwork


class Evaluation:
    """The new faces of a task and seed, their prompts, and their pictures without a LoRA.

    Full prompts name every attribute that the task must leave as it is, short ones two of them, empty ones none. For
    each face all pictures start from one noise.
    """

    def __init__(self, bench: Bench, task: LabTask, seed: int) -> None:
        self._bench, self._task, self._seed = bench, task, seed
        self._subjects = task.new_subjects(seed, bench.scale.faces)
        self._full = [task.prompt(subject) for subject in self._subjects]
        self._short = task.short_prompts(self._subjects, seed)
        self._empty = [""] * len(self._subjects)

    def of_lora(self, network: LoraNetwork) -> dict[str, Any]:
        """The figures of a LoRA, which is not attached yet, at weight 1 and others."""
        base, short, empty = map(self._base, (self._full, self._short, self._empty))
        with network.attach():

            def draw(prompts: Sequence[str], weight: float = 1.0) -> np.ndarray:
                return self._bench.draw(prompts, self._seed, network, weight)

            shown, reverse = draw(self._full), draw(self._full, -1.0)
            figures = self._full_figures(base, shown, reverse)
            figures |= self._compared("short_", short, draw(self._short))
            figures |= self._compared("empty_", empty, draw(self._empty))
            figures |= self._growth(network, base, shown)
        return figures | self._words_under_short_prompts()

    def of_words(self) -> dict[str, Any]:
        """The figures of the prompts that name the value, or its absence for weight -1."""
        shown, reverse = (
            self._base([self._task.prompt_in_words(subject, shown=shown) for subject in self._subjects])
            for shown in (True, False)
        )
        figures = self._full_figures(self._base(self._full), shown, reverse)
        words = self._words_under_short_prompts()
        return figures | words | {"short_hits": words["words_short_hits"], "short_flips": words["words_short_flips"]}

    def _base(self, prompts: Sequence[str]) -> np.ndarray:
        return self._bench.base(prompts, self._seed)

    def _readings(self, pictures: np.ndarray) -> list[dict[str, str]]:
        return [self._task.world.detect(picture) for picture in pictures]

    def _compared(self, prefix: str, base: np.ndarray, shown: np.ndarray) -> dict[str, Any]:
        """Hits and flips of pictures, beside those without the change."""
        before, after = self._readings(base), self._readings(shown)
        return {
            f"{prefix}base_hits": metrics.share([self._task.is_hit(reading) for reading in before]),
            f"{prefix}hits": metrics.share([self._task.is_hit(reading) for reading in after]),
            f"{prefix}flips": metrics.flips(before, after, self._task.others),
        }

    def _full_figures(self, base: np.ndarray, shown: np.ndarray, reverse: np.ndarray) -> dict[str, Any]:
        at_minus_1 = self._compared("reverse_", base, reverse)
        areas = np.stack([self._task.area(subject) for subject in self._subjects])
        return {
            **self._compared("", base, shown),
            "reverse_hits": at_minus_1["reverse_hits"],
            "reverse_flips": at_minus_1["reverse_flips"],
            "interference": metrics.interference(base, shown, areas),
        }

    def _words_under_short_prompts(self) -> dict[str, Any]:
        """What the words of the change cost, where a short prompt names it too: the same noise, no LoRA."""
        if not self._task.is_known:
            return {}
        said = self._base([self._task.with_words(prompt) for prompt in self._short])
        figures = self._compared("words_short_", self._base(self._short), said)
        return {name: figures[name] for name in ("words_short_hits", "words_short_flips")}

    def _growth(self, network: LoraNetwork, base: np.ndarray, shown: np.ndarray) -> dict[str, Any]:
        """The mean effect at weights 0, 0.5, 1 and 2 on faces that do not show the change at 0, and flips at 2."""
        plain = [n for n, reading in enumerate(self._readings(base)) if not self._task.is_hit(reading)]
        faces = plain[: self._bench.scale.growth_faces]
        if not faces:
            return {}
        prompts = [self._full[n] for n in faces]
        halved, doubled = (self._bench.draw(prompts, self._seed, network, w, numbers=faces) for w in (0.5, 2.0))
        means = self._effects(faces, [base[faces], halved, shown[faces], doubled]).mean(axis=1)
        half, full, double = means[1:] - means[0]
        return {
            "effects": [round(float(mean), 4) for mean in means],
            "strength_at_half": metrics.strength(float(half), float(full)),
            "strength_at_2": metrics.strength(float(double), float(full)),
            "flips_at_2": metrics.flips(self._readings(base[faces]), self._readings(doubled), self._task.others),
        }

    def _effects(self, faces: Sequence[int], batches: Sequence[np.ndarray]) -> np.ndarray:
        """`metrics.effects` of some faces, beside painted pictures of them through the VAE; (batches, faces)."""
        subjects = [self._subjects[n] for n in faces]
        painted = ([np.asarray(self._task.paint(s, shown=shown)) for s in subjects] for shown in (False, True))
        original, target = (self._levels(self._bench.through_vae(pictures)) for pictures in painted)
        return metrics.effects(np.stack([self._levels(batch) for batch in batches]), original, target)

    def _levels(self, pictures: np.ndarray) -> np.ndarray:
        return np.stack([self._task.level(picture) for picture in pictures])
