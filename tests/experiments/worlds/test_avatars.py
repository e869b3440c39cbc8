"""The world of avatars: what is rendered, what captions say, and what the readers read."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lib_addift.experiments.worlds import avatars


def some(count: int) -> list[avatars.Avatar]:
    rng = random.Random(7)
    return [avatars.random_avatar(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def rendered() -> list[tuple[avatars.Avatar, Image.Image]]:
    return [(avatar, avatars.draw(avatar)) for avatar in some(200)]


def test_an_avatar_is_rendered_alike_each_time() -> None:
    avatar = avatars.Avatar(hat="winter", variation=5)
    first = avatars.draw(avatar)
    assert (first.size, first.mode) == ((128, 128), "RGB")
    assert first.tobytes() == avatars.draw(avatar).tobytes()
    assert first.tobytes() != avatars.draw(avatars.Avatar(hat="winter", variation=6)).tobytes()


@pytest.mark.slow
def test_the_readers_read_what_was_rendered(rendered: list[tuple[avatars.Avatar, Image.Image]]) -> None:
    for avatar, picture in rendered:
        assert avatars.detect(picture) == avatar.attributes()


@pytest.mark.slow
def test_the_readers_bear_blur_and_noise(rendered: list[tuple[avatars.Avatar, Image.Image]]) -> None:
    rng = np.random.default_rng(0)
    wrong: Counter[str] = Counter()
    for avatar, picture in rendered:
        blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)))
        reading = avatars.detect((blurred + rng.normal(0, 8, blurred.shape)).clip(0, 255))
        wrong.update(name for name, value in avatar.attributes().items() if reading[name] != value)
    assert {name: count for name, count in wrong.items() if count > 2} == {}


@pytest.mark.slow
@pytest.mark.parametrize("attribute", avatars.ATTRIBUTES)
def test_attributes_are_independent(attribute: str) -> None:
    """Rendering another value of one attribute changes the reading of that one only."""
    for avatar in some(8):
        for value in avatars.ATTRIBUTES[attribute]:
            changed = avatars.Avatar(**{**avatar.attributes(), "variation": avatar.variation, attribute: value})
            assert avatars.detect(avatars.draw(changed)) == {**avatar.attributes(), attribute: value}


def test_the_readers_refuse_other_sizes() -> None:
    with pytest.raises(ValueError, match="128 x 128"):
        avatars.detect(Image.new("RGB", (64, 64)))


def test_captions_leave_out_what_they_are_told() -> None:
    avatar = avatars.Avatar(beard="full")
    assert avatars.caption(avatar, frozenset(set(avatars.ATTRIBUTES) - {"eyes", "beard"})) == "open eyes, full beard"
    assert "eyes" not in avatars.caption(avatar, frozenset({"eyes"}))
    assert avatars.caption(avatar, frozenset(avatars.ATTRIBUTES)) == ""
    assert avatars.phrase("glasses", "no") == "no glasses"


def test_given_attributes_are_kept() -> None:
    rng = random.Random(1)
    made = [avatars.random_avatar(rng, hat="no", skin="dark") for _ in range(20)]
    assert {(avatar.hat, avatar.skin) for avatar in made} == {("no", "dark")}
    assert {avatar.hair for avatar in made} == set(avatars.ATTRIBUTES["hair"])
