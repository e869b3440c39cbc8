"""What a training shows of a world: subjects, their pictures, and captions that leave things out."""

from __future__ import annotations

import random

import pytest
import torch

from lib_addift.experiments.worlds.data import EMPTY_RATE, OMIT_RATE, WORLDS

NAMES = ("faces", "avatars")


@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_the_subjects(name: str) -> None:
    world = WORLDS[name]
    subjects = world.subjects(3, seed=4)
    pictures = world.pictures(subjects)
    assert (pictures.shape, pictures.dtype) == ((3, 3, world.module.SIZE, world.module.SIZE), torch.uint8)
    readings = [world.module.detect(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    assert readings == [subject.attributes() for subject in subjects]


def test_latents_are_an_eighth_of_the_picture() -> None:
    assert [WORLDS[name].latent_size for name in NAMES] == [8, 16]


@pytest.mark.parametrize("name", NAMES)
def test_captions_omit_attributes_and_say_which(name: str) -> None:
    world, rng = WORLDS[name], random.Random(0)
    (subject,) = world.subjects(1, seed=5)
    captions = [world.random_caption(subject, rng) for _ in range(2000)]
    empty = sum(not caption for caption in captions) / len(captions)
    assert empty == pytest.approx(EMPTY_RATE, abs=0.03)
    for attribute, values in world.attributes.items():
        said = [world.said(subject, caption, attribute) for caption in captions]
        assert set(said) == {values.index(getattr(subject, attribute)), len(values)}
        omitted = said.count(len(values)) / len(said)
        assert omitted == pytest.approx(EMPTY_RATE + (1 - EMPTY_RATE) * OMIT_RATE, abs=0.04)
