"""The presets: for each kind of difference, the settings that differ from TrainConfig's defaults."""

from __future__ import annotations

from typing import Any

DEFAULT_PRESET = "concept"

PRESETS: dict[str, dict[str, Any]] = {
    # What could be said in words, whatever it is: it holds for other pictures than the one pair (docs/lab.md).
    "concept": {
        "algorithm": "shift", "rank": 1, "alpha": 1.0, "blocks": ("IN", "MID", "OUT"), "max_train_steps": 30,
        "batch_size": 4, "learning_rate": 0.1, "train_multiplier": 1.0, "min_timestep": 300, "max_timestep": 1000,
        "strength": 0.6,
    },
    # Eyes, mouth, pose, expression: what changes shape. It is decided at high noise.
    "action": {"min_timestep": 500, "max_timestep": 1000},
    # Texture, line, palette: over the whole picture, so there is no area to mask. New pictures show it a little weaker
    # than their own pair does (docs/lab.md).
    "style": {"min_timestep": 500, "max_timestep": 1000, "mask": "off", "strength": 1.25},
    # Small things in one place: a mouth, jewellery, buttons. New pictures show them weaker than their own pair does.
    "detail": {"min_timestep": 500, "max_timestep": 1000, "strength": 2.0},
}  # fmt: skip
