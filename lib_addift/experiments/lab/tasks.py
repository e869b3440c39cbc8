"""A task of the laboratory: a change to learn, faces to learn it from, and new faces to measure it on.

Both kinds of faces are random. Those that a LoRA is measured on differ in their attributes from all that it may have
been trained on. Nothing is drawn from the same stream of random numbers for two seeds, tasks or purposes, so the halves
of the seeds have nothing in common.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from lib_addift.data.mask import dilated
from lib_addift.experiments.lab.world import Picture, Subject, World

# Everything is chosen on the first half; the second is for the table.
HALVES = {"tune": range(1, 100), "test": range(100, 200)}
MOST_PAIRS = 16  # training faces of one seed; none of them is measured on
_SHORT = 2  # attributes that a short prompt names
_MARGIN = 3  # px by which an area is larger than the painted difference: for a shift of 1 px and for the VAE's blur
_VISIBLE = 8  # grey levels


def half_of(seed: int) -> str:
    """The half that a seed belongs to."""
    return next(name for name, seeds in HALVES.items() if seed in seeds)


@dataclass(frozen=True)
class LabTask:
    """One difference to learn: of one attribute, or of several at once.

    `changes` has, for each attribute, its value in the original and in the target of a pair.
    """

    world: World
    name: str
    changes: Mapping[str, tuple[str, str]]
    preset: str = "action"
    seeds: int = 4  # of the default table
    fixed: Mapping[str, str] = field(default_factory=dict)  # attributes that are the same in all its pictures

    @property
    def without(self) -> dict[str, str]:
        """The changed attributes as in an original."""
        return {name: original for name, (original, _) in self.changes.items()}

    @property
    def shown(self) -> dict[str, str]:
        """The changed attributes as in a target."""
        return {name: target for name, (_, target) in self.changes.items()}

    @property
    def is_known(self) -> bool:
        """Whether the checkpoint can draw it and prompts can name it."""
        return all(name in self.world.attributes for name in self.changes)

    @property
    def others(self) -> tuple[str, ...]:
        """The attributes that it must leave as they are."""
        return tuple(name for name in self.world.attributes if name not in self.changes)

    def training_subjects(self, seed: int, count: int) -> list[Subject]:
        """Random originals to train on, without the change; the same first ones however many are asked for."""
        rng = self._rng("train", seed)
        return [self.world.random_subject(rng).having({**self.fixed, **self.without}) for _ in range(count)]

    def new_subjects(self, seed: int, count: int) -> list[Subject]:
        """Random subjects to measure on, with the change or without it, none of them like a training subject."""
        rng = self._rng("measure", seed)
        trained = [self._rest(subject) for subject in self.training_subjects(seed, MOST_PAIRS)]
        subjects: list[Subject] = []
        while len(subjects) < count:
            subject = self.world.random_subject(rng).having(self.fixed)
            if self._rest(subject) not in trained:
                subjects.append(subject)
        return subjects

    def paint(self, subject: Subject, *, shown: bool) -> Image.Image:
        """Paint a subject with the change or without it; other values than these two are replaced."""
        return self.world.paint(subject.having(self.shown if shown else self.without))

    def is_hit(self, reading: Mapping[str, str]) -> bool:
        """Whether a picture, as `World.detect` reads it, shows the whole change."""
        return all(reading[name] == value for name, value in self.shown.items())

    def level(self, picture: Picture) -> np.ndarray:
        """How much of the change a picture shows, one number for each attribute, each in a unit of its own."""
        return np.array([self.world.level(picture, name, value) for name, value in self.shown.items()])

    def prompt(self, subject: Subject) -> str:
        """The full prompt: it names all attributes but those that change."""
        return self.world.caption({name: subject.values[name] for name in self.others})

    def prompt_in_words(self, subject: Subject, *, shown: bool) -> str:
        """The full prompt that also says the change, or its absence; for a task that `is_known`."""
        said = self.shown if shown else self.without
        return self.world.caption(subject.having(said).values)

    def varied_prompt(self, said: Mapping[str, str]) -> str:
        """A prompt for many pictures, as a person writes it: alternatives, {black|red}, of what does not change."""
        others = {name: "{" + "|".join(self.world.attributes[name]) + "}" for name in self.others}
        return self.world.caption({**others, **said})

    def short_prompts(self, subjects: list[Subject], seed: int) -> list[str]:
        """For each subject a prompt that names two of its attributes, at random, of those that do not change."""
        rng = self._rng("short", seed)
        named = [rng.sample(self.others, _SHORT) for _ in subjects]
        return [
            self.world.caption({name: subject.values[name] for name in names})
            for subject, names in zip(subjects, named, strict=True)
        ]

    def with_words(self, prompt: str) -> str:
        """A prompt with the words of the change behind it."""
        return ", ".join(part for part in (prompt, self.world.caption(self.shown)) if part)

    def area(self, subject: Subject) -> np.ndarray:
        """(size, size), true where the change may alter a picture of this subject, whatever its values are before."""
        target = _pixels(self.paint(subject, shown=True))
        others = [self.paint(subject, shown=False)]
        for name in self.changes:
            others += [self.world.paint(subject.having({name: value})) for value in self.world.attributes.get(name, ())]
        changes = [np.abs(target - _pixels(picture)).max(axis=2) > _VISIBLE for picture in others]
        return dilated(np.logical_or.reduce(changes), _MARGIN)

    def _rest(self, subject: Subject) -> dict[str, str]:
        return {name: subject.values[name] for name in self.others}

    def _rng(self, purpose: str, seed: int) -> random.Random:
        """A stream of random numbers for one purpose, of this task and seed alone."""
        return random.Random(f"{self.world.name} {self.name} {purpose} {seed}")


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float64)
