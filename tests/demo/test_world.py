"""The world of painted faces, its detectors, and the checkpoint that was trained on it."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter
from safetensors import safe_open

from lib_addift.demo import world
from lib_addift.demo.evaluate import draw_prompts
from lib_addift.demo.run import CHECKPOINT
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora import names


def faces(count: int) -> list[world.Face]:
    rng = random.Random(7)
    return [world.random_face(rng) for _ in range(count)]


def test_detectors_read_what_was_drawn() -> None:
    for face in faces(500):
        assert world.detect(world.draw(face)) == face.attributes()


def test_detectors_bear_noise_and_blur() -> None:
    rng = np.random.default_rng(0)
    for face in faces(200):
        picture = world.draw(face).filter(ImageFilter.GaussianBlur(0.6))
        noisy = np.asarray(picture) + rng.normal(0, 6, size=(world.SIZE, world.SIZE, 3))
        assert world.detect(noisy.clip(0, 255)) == face.attributes()


@pytest.mark.parametrize("attribute", world.ATTRIBUTES)
def test_attributes_are_independent(attribute: str) -> None:
    """Repainting one attribute changes the detector's reading of that one only."""
    for face in faces(40):
        for value in world.ATTRIBUTES[attribute]:
            changed = world.Face(**{**face.attributes(), "variation": face.variation, attribute: value})
            assert world.detect(world.draw(changed)) == {**face.attributes(), attribute: value}


def test_the_detector_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="64 x 64"):
        world.detect(Image.new("RGB", (32, 64)))


def test_captions_leave_out_what_they_are_told() -> None:
    face = world.Face()
    assert "eyes" in world.caption(face)
    assert "eyes" not in world.caption(face, frozenset({"eyes"}))
    assert world.caption(face, frozenset(world.ATTRIBUTES)) == ""


def test_the_checkpoint_has_the_layout_and_the_size_it_must_have() -> None:
    assert CHECKPOINT.stat().st_size <= 16_000_000
    with safe_open(CHECKPOINT, framework="pt") as file:
        keys = list(file.keys())
    prefixes = {"unet": names.UNET_PREFIX, "vae": names.VAE_PREFIX, "text": names.TEXT_PREFIX + "text_model."}
    counts = {part: sum(key.startswith(prefix) for key in keys) for part, prefix in prefixes.items()}
    # As in the SD1.5 release.
    assert counts == {"unet": 686, "vae": 248, "text": 197}
    assert {"betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod"} < set(keys)


@pytest.mark.long
@pytest.mark.slow
def test_prompted_pictures_show_what_was_prompted() -> None:
    host = StandaloneHost(CHECKPOINT)
    wanted = faces(100)
    pictures = draw_prompts(host, [world.caption(face) for face in wanted], seed=11)
    hits: Counter[str] = Counter()
    for picture, face in zip(pictures, wanted, strict=True):
        hits.update(name for name, value in world.detect(picture).items() if value == getattr(face, name))
    assert {name: hits[name] for name in world.ATTRIBUTES if hits[name] < 95} == {}
