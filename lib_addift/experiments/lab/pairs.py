"""The pictures to train on: painted, drawn by the checkpoint, or damaged; each a function of bench, task and seed."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from lib_addift.data.pairs import PairSource
from lib_addift.data.pictures import load_picture
from lib_addift.drawn_pairs import vary, words
from lib_addift.drawn_pairs.pair import DrawnPair, DrawSettings
from lib_addift.experiments.lab.bench import GUIDANCE, Bench
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.experiments.lab.world import Subject

Pictures = tuple[Image.Image, Image.Image]  # original, target
PairMaker = Callable[[Bench, LabTask, int], Sequence[PairSource]]
# Their noise is that of no measured picture: `Bench.draw` counts from the seed.
_DRAWN_SEED = 1_000
_FIRST_DRAWN_SEED, _SEED_SPACING = 20_000_000, 1_000  # the product counts up from a pair's seed
_JPEG_QUALITY = 75
_CAST = (1.06, 1.0, 0.94)  # factors of red, green and blue: a warmer white balance


def painted(count: int = 1, *, captioned: bool = False) -> PairMaker:
    """Pairs of random subjects, as the world paints them. Captioned: with a prompt that says all but the change."""

    def make(_bench: Bench, task: LabTask, seed: int) -> list[PairSource]:
        subjects = task.training_subjects(seed, count)
        pictures = [_painted(task, subject) for subject in subjects]
        return _sources(pictures, task, subjects, captioned=captioned)

    return make


def damaged(damage: Callable[[Pictures, random.Random], Pictures]) -> PairMaker:
    """One painted pair, damaged."""

    def make(_bench: Bench, task: LabTask, seed: int) -> list[PairSource]:
        rng = random.Random(f"{task.world.name} {task.name} damage {seed}")
        return [PairSource(*damage(pictures, rng)) for pictures in [_painted(task, *task.training_subjects(seed, 1))]]

    return make


def drawn(count: int = 1, *, inpainted: bool = False, captioned: bool = False) -> PairMaker:
    """Pairs that the checkpoint draws: each picture from its full caption, both of a pair from one noise.

    Inpainted: the target's pixels stand in the original's picture where the change may be. Captioned: each pair is
    trained under its caption without the change.
    """

    def make(bench: Bench, task: LabTask, seed: int) -> list[PairSource]:
        subjects = task.training_subjects(seed, count)
        said = [[task.prompt_in_words(subject, shown=shown) for subject in subjects] for shown in (False, True)]
        originals, targets = (bench.draw(prompts, _DRAWN_SEED + seed) for prompts in said)
        if inpainted:
            areas = np.stack([task.area(subject) for subject in subjects])
            targets = np.where(areas[..., None], targets, originals)
        pictures = list(zip(map(Image.fromarray, originals), map(Image.fromarray, targets), strict=True))
        return _sources(pictures, task, subjects, captioned=captioned)

    return make


def from_words(count: int, *, blend: str = "auto") -> PairMaker:
    """Pairs that the product draws from two prompts with alternatives, each under its caption without the change."""

    def make(bench: Bench, task: LabTask, seed: int) -> list[PairSource]:
        said = [task.varied_prompt(values) for values in (task.without, task.shown)]
        settings = _draw_settings(bench, seed, blend=blend)
        with bench.host.exclusive():
            *_, last = words.from_words(bench.host, *said, count=count, settings=settings)
        return [_source(pair) for pair in last.pairs]

    return make


def varied(count: int) -> PairMaker:
    """A painted pair, and so many variations of it that the product draws."""

    def make(bench: Bench, task: LabTask, seed: int) -> list[PairSource]:
        original, target = map(np.asarray, _painted(task, *task.training_subjects(seed, 1)))
        settings = _draw_settings(bench, seed)
        with bench.host.exclusive():
            *_, last = vary.vary(
                bench.host, original, target, count=count, settings=settings, prompts=[task.varied_prompt({})]
            )
        return [_source(pair) for pair in last.pairs]

    return make


def as_jpeg(pictures: Pictures, _rng: random.Random) -> Pictures:
    """Both pictures saved as JPEG of quality 75."""
    original, target = map(_through_jpeg, pictures)
    return original, target


def shifted(pictures: Pictures, rng: random.Random) -> Pictures:
    """The target moved by 1 px in one of the four directions; its border is repeated."""
    original, target = pictures
    x, y = rng.choice([(1, 0), (-1, 0), (0, 1), (0, -1)])
    pixels = np.pad(np.asarray(target), ((1, 1), (1, 1), (0, 0)), mode="edge")
    return original, Image.fromarray(pixels[1 - y : 1 - y + target.height, 1 - x : 1 - x + target.width])


def with_cast(pictures: Pictures, _rng: random.Random) -> Pictures:
    """The target with a warmer white balance."""
    original, target = pictures
    return original, Image.fromarray((np.asarray(target) * np.array(_CAST)).clip(0, 255).round().astype(np.uint8))


def _draw_settings(bench: Bench, seed: int, **changes: Any) -> DrawSettings:
    """As the world's pictures are drawn."""
    size, steps = bench.world.size, bench.scale.sampling_steps
    first = _FIRST_DRAWN_SEED + _SEED_SPACING * seed
    return DrawSettings(width=size, height=size, steps=steps, guidance=GUIDANCE, seed=first, **changes)


def _source(pair: DrawnPair) -> PairSource:
    pictures = Image.fromarray(pair.original), Image.fromarray(pair.target)
    return PairSource(*pictures, "", pair.original_prompt, pair.target_prompt)


def _sources(
    pictures: Sequence[Pictures], task: LabTask, subjects: Sequence[Subject], *, captioned: bool
) -> list[PairSource]:
    """The pairs of some subjects, each with the prompt that says all but the change, or with none."""
    prompts = [task.prompt(subject) if captioned else "" for subject in subjects]
    return [PairSource(*pair, "", prompt, prompt) for pair, prompt in zip(pictures, prompts, strict=True)]


def _painted(task: LabTask, subject: Subject) -> Pictures:
    return task.paint(subject, shown=False), task.paint(subject, shown=True)


def _through_jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return load_picture(file.getvalue(), "picture")
