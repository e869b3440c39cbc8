"""Pictures for the tests: scenes made from a seed, what is done to them, and pairs of them as a run loads them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair, load_pair


def scene(width: int = 96, height: int = 80, seed: int = 0) -> np.ndarray:
    """A picture with content at every place, (H, W, 3) uint8, smooth enough to survive scaling and JPEG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def changed(picture: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """The picture with one square inverted."""
    result = picture.copy()
    result[top : top + size, left : left + size] ^= 255
    return result


def as_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def mask_of(original: Any, target: Any, **settings: Any) -> np.ndarray:
    mask = pair_of(original, target, **settings).mask
    assert mask is not None
    return mask


def pair_of(original: Any, target: Any, **settings: Any) -> ImagePair:
    return load_pair(original, target, TrainConfig(**{"mask": "off", **settings}))
