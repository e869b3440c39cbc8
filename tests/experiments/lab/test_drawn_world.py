"""A world that a module draws and reads, seen by the laboratory."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lib_addift.demo import world
from lib_addift.experiments.lab.faces import FACES
from lib_addift.experiments.lab.world import Subject


def test_subjects_are_painted_captioned_and_read_as_the_modules_own() -> None:
    face = world.random_face(random.Random(3))
    subject = FACES.random_subject(random.Random(3))
    assert subject == Subject(face.attributes(), face.variation)
    assert FACES.paint(subject).tobytes() == world.draw(face).tobytes()
    assert FACES.caption(subject.values) == world.caption(face)
    assert FACES.caption({"mouth": "open", "eyes": "closed"}) == "closed eyes, open mouth"
    assert FACES.caption({}) == ""


@pytest.mark.parametrize(
    ("attribute", "value", "other"),
    [("eyes", "closed", "open"), ("eyes", "open", "closed"), ("hair", "red", "blond"), ("skin", "dark", "light")],
)
def test_a_level_rises_with_the_value_and_is_highest_where_it_is_painted(
    attribute: str, value: str, other: str
) -> None:
    shown, without = (np.asarray(FACES.paint(Subject({attribute: each})), dtype=float) for each in (value, other))
    levels = [FACES.level(without + share * (shown - without), attribute, value) for share in (0.0, 0.5, 1.0)]
    assert levels == sorted(levels)
    assert levels[0] < levels[1] < levels[2]
