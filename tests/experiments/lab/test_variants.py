"""The variants of the training that are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib_addift.config.prompts import choose_alternatives
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.faces import FACES
from lib_addift.experiments.lab.pairs import painted
from lib_addift.experiments.lab.variants import TABLE, VARIANTS
from tests.support.fake_host import FakeHost
from tests.support.lab import FACES_TASKS, SMALL

EYES, STYLE = FACES_TASKS["eyes"], FACES_TASKS["style"]


def test_every_variant_has_valid_settings_and_changes_something() -> None:
    assert set(TABLE) <= set(VARIANTS)
    ours = VARIANTS["ours"]
    for name, variant in VARIANTS.items():
        differs = any(variant.config(task, 3) != ours.config(task, 3) for task in FACES_TASKS.values())
        assert differs or variant.in_words or variant.make_pairs is not ours.make_pairs or name == "ours"


def test_a_run_counts_up_from_its_seed_without_reaching_the_next_ones() -> None:
    seeds = [VARIANTS["ours"].config(EYES, seed).seed for seed in (1, 2, 99, 100)]
    assert seeds == [1000, 2000, 99_000, 100_000]


def test_the_preview_prompt_is_like_the_worlds_prompts_and_says_nothing_of_the_change() -> None:
    prompt = VARIANTS["previewed"].config(EYES, 1).preview_prompt
    shown = {choose_alternatives(prompt, seed) for seed in range(40)}
    assert len(shown) > 8
    assert all("hair" in each and "eyes" not in each for each in shown)
    assert not VARIANTS["ours"].config(EYES, 1).preview_prompt


def test_the_published_settings_are_the_published_ones() -> None:
    action = VARIANTS["published"].config(EYES, 1)
    assert (action.rank, action.alpha, action.max_train_steps, action.learning_rate) == (4, 1, 30, 1e-4)
    assert (action.min_timestep, action.max_timestep, action.directions, action.mask) == (500, 1000, "alternate", "off")
    assert not action.calibrate
    style = VARIANTS["published"].config(STYLE, 1)
    assert (style.min_timestep, style.max_timestep, style.strength, style.max_train_steps) == (200, 400, 5, 50)
    assert VARIANTS["published"].config(FACES_TASKS["mouth"], 1).strength == 1, "the preset's is not the author's"


def test_the_published_style_is_trained_from_target_to_original(tmp_path: Path) -> None:
    bench = Bench(FACES, FakeHost(tmp_path), SMALL, tmp_path)
    for task, swaps in ((EYES, False), (STYLE, True)):
        pair = painted()(bench, task, 1)[0]
        trained = VARIANTS["published"].sources(bench, task, 1)[0]
        wanted = pair.target if swaps else pair.original
        assert np.array_equal(np.asarray(trained.original), np.asarray(wanted))
