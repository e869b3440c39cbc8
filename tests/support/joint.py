"""Runs that can train together, each on a pair of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from lib_addift.config.settings import TrainConfig
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost

SMALL = {"max_train_steps": 4, "sampling_steps": 2, "rank": 2, "learning_rate": 1e-3, "optimizer": "SGD", "mask": "off"}


def start(host: FakeHost, seed: int, *, size: int = 64, keep_snapshots: bool = True, **settings: Any) -> TrainingRun:
    """A run of its own on one of some pairs."""
    pictures = np.random.default_rng(seed).integers(0, 256, (2, size, 64, 3)).astype(np.uint8)
    config = TrainConfig.create(**{**SMALL, "seed": seed, **settings})
    return TrainingRun(host, Request.of(*pictures, f"lora{seed}", config), keep_snapshots=keep_snapshots)
