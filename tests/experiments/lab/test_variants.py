"""The variants of the training that are compared."""

from __future__ import annotations

from lib_addift.experiments.lab.tasks import TASKS
from lib_addift.experiments.lab.variants import VARIANTS


def test_every_variant_has_valid_settings_and_changes_something() -> None:
    ours = {name: VARIANTS["ours"].config(task, 3) for name, task in TASKS.items()}
    for name, variant in VARIANTS.items():
        differs = any(variant.config(task, 3) != ours[task.name] for task in TASKS.values())
        assert differs or variant.in_words or variant.pairs > 1 or name == "ours"


def test_the_published_settings_are_the_published_ones() -> None:
    action = VARIANTS["published"].config(TASKS["eyes"], 1)
    assert (action.rank, action.alpha, action.max_train_steps, action.learning_rate) == (4, 1, 30, 1e-4)
    assert (action.min_timestep, action.max_timestep, action.directions, action.mask) == (500, 1000, "alternate", "off")
    assert not action.calibrate
    style = VARIANTS["published"].config(TASKS["style"], 1)
    assert (style.min_timestep, style.max_timestep, style.strength, style.max_train_steps) == (200, 400, 5, 50)
    assert VARIANTS["published"].swapped == ("style",)
    assert VARIANTS["published"].config(TASKS["mouth"], 1).strength == 1, "the preset's is not the author's"
