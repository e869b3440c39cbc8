"""The world of painted faces, its detectors, and the checkpoint that was trained on it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from safetensors import safe_open

from lib_addift.demo import world
from lib_addift.demo.evaluate import draw_prompts
from lib_addift.demo.run import CHECKPOINT, CHECKPOINTS
from lib_addift.families import SDXL
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


def keys_of(checkpoint: Path) -> list[str]:
    with safe_open(checkpoint, framework="pt") as file:
        return list(file.keys())


def test_the_checkpoint_has_the_layout_it_must_have() -> None:
    keys = keys_of(CHECKPOINT)
    prefixes = {"unet": names.UNET_PREFIX, "vae": names.VAE_PREFIX, "text": names.TEXT_PREFIX + "text_model."}
    counts = {part: sum(key.startswith(prefix) for key in keys) for part, prefix in prefixes.items()}
    # As in the SD1.5 release.
    assert counts == {"unet": 686, "vae": 248, "text": 197}
    assert {"betas", "alphas_cumprod", "sqrt_one_minus_alphas_cumprod"} < set(keys)


def test_the_checkpoint_for_sdxl_has_the_layout_it_must_have() -> None:
    keys = keys_of(CHECKPOINTS["sdxl"])
    prefixes = [names.UNET_PREFIX, names.VAE_PREFIX, *(encoder.prefix for encoder in SDXL.text_encoders)]
    counts = [sum(key.startswith(prefix) for key in keys) for prefix in prefixes]
    # As in the SDXL release but for the skip connection between the first levels, which have the same width.
    assert counts == [1678, 248, 197, 390]


@pytest.mark.parametrize("model", CHECKPOINTS)
def test_the_checkpoint_is_small_enough_for_a_repository(model: str) -> None:
    assert CHECKPOINTS[model].stat().st_size <= 16 * 2**20


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("model", CHECKPOINTS)
def test_prompted_pictures_show_what_was_prompted(model: str) -> None:
    host = StandaloneHost(CHECKPOINTS[model])
    wanted = faces(100)
    pictures = draw_prompts(host, [world.caption(face) for face in wanted], seed=11)
    hits: Counter[str] = Counter()
    for picture, face in zip(pictures, wanted, strict=True):
        hits.update(name for name, value in world.detect(picture).items() if value == getattr(face, name))
    assert {name: hits[name] for name in world.ATTRIBUTES if hits[name] < 95} == {}
