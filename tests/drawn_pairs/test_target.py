"""The target of a picture from a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lib_addift.drawn_pairs.pair import DrawSettings
from lib_addift.drawn_pairs.target import target_from_words
from lib_addift.errors import ConfigError
from tests.support.pictures import scene
from tests.support.prompted_host import PromptedHost

SETTINGS = DrawSettings(steps=5, guidance=2.0)
PICTURE = scene(128, 64, 3)


def test_only_what_the_words_change_differs_from_the_picture() -> None:
    pair = target_from_words(PromptedHost(), PICTURE, "x, a b b b", original_prompt="x, a", settings=SETTINGS)
    assert pair.original is PICTURE
    assert pair.mask is not None
    differs = (pair.target != PICTURE).any(axis=2)
    assert differs[16:40, 16:40].mean() > 0.9
    assert not differs[pair.mask == 0].any(), "not even by what the VAE loses"
    assert (pair.original_prompt, pair.target_prompt) == ("x", "x")


def test_without_blending_the_whole_picture_is_drawn_anew() -> None:
    settings = DrawSettings(steps=5, guidance=2.0, blend="off")
    pair = target_from_words(PromptedHost(), PICTURE, "a b b b", original_prompt="a", settings=settings)
    assert pair.mask is None
    assert (pair.target != PICTURE)[:, 64:].any()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prompt": ""}, "asks for no change"),
        ({"prompt": "a", "original_prompt": "a"}, "asks for no change"),
        ({"prompt": "{a"}, "without its }"),
        ({"prompt": "a b b b", "strength": 0.0}, "strength = 0.0"),
        ({"prompt": "b", "original_prompt": "a"}, "changes nothing that can be seen"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        target_from_words(PromptedHost(), PICTURE, settings=SETTINGS, **options)


def test_the_picture_may_be_read_only() -> None:
    picture = PICTURE.copy()
    picture.flags.writeable = False
    pair = target_from_words(PromptedHost(), picture, "a b b b", original_prompt="a", settings=SETTINGS)
    assert np.array_equal(pair.original, picture)
