"""The presets: for each kind of difference, the settings that differ from TrainConfig's defaults."""

from __future__ import annotations

from typing import Any

DEFAULT_PRESET = "action"

PRESETS: dict[str, dict[str, Any]] = {
    # Eyes, mouth, pose, expression: what changes shape. It is decided at high noise.
    "action": {"min_timestep": 500, "max_timestep": 1000},
    # Texture, line, palette: over the whole picture, so there is no area to mask. New pictures show it a little weaker
    # than their own pair does (docs/lab.md).
    "style": {"min_timestep": 500, "max_timestep": 1000, "mask": "off", "strength": 1.25},
    # Small things in one place: a mouth, jewellery, buttons. New pictures show them weaker than their own pair does.
    "detail": {"min_timestep": 500, "max_timestep": 1000, "strength": 2.0},
}
