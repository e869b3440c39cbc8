"""The recipes of a search: what they change, and what they leave as it was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from lib_addift.config.recipes import recipes
from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig

PICTURES = ("mask", "resolution", "prompt", "seed", "mirror", "zoom", "new_pictures", "align")


@pytest.mark.parametrize(
    ("preset", "settings", "names"),
    [
        ("", {}, ["your settings", "3 times the rate", "output blocks", "published layers", "all layers"]),
        ("style", {"dora": True}, ["your settings", "3 times the rate", "a shift", "published layers", "all layers"]),
        ("action", {"layers": LAYER_KINDS, "blocks": BLOCKS},
         ["your settings", "3 times the rate", "a shift", "output blocks", "published layers"]),
    ],
)  # fmt: skip
def test_five_recipes_none_of_them_twice(preset: str, settings: dict[str, Any], names: list[str]) -> None:
    config = TrainConfig.create(preset, search=True, **settings)
    found = recipes(config)
    assert [name.removeprefix("a LoRA in the ").removeprefix("a LoRA in ") for name in found] == names
    assert len({each.to_json() for each in found.values()}) == 5
    assert found["your settings"].to_dict() == {**config.to_dict(), "search": False}
    assert not any(each.search for each in found.values())


@pytest.mark.parametrize("preset", ["", "action", "style", "detail"])
def test_all_learn_from_the_same_pictures(preset: str) -> None:
    config = TrainConfig.create(preset, search=True, mask="off", prompt="a face", seed=7, mirror="on", new_pictures=4)
    for each in recipes(config).values():
        assert [getattr(each, name) for name in PICTURES] == [getattr(config, name) for name in PICTURES]


def test_fewer_steps_are_fewer_for_each_in_proportion() -> None:
    """And more, as for a set of pairs."""
    usual = [each.max_train_steps for each in recipes(TrainConfig.create(search=True)).values()]
    share = TrainConfig.create().max_train_steps
    for steps in (1, share // 2, 2 * share):
        config = TrainConfig.create(search=True, max_train_steps=steps)
        found = [each.max_train_steps for each in recipes(config).values()]
        assert found == [max(1, round(each * steps / share)) for each in usual]


def test_a_rate_that_cannot_be_higher_is_no_recipe_of_its_own() -> None:
    assert "3 times the rate" not in recipes(TrainConfig.create(search=True, learning_rate=1.0))
