"""The presets: for each kind of difference, the settings that differ from TrainConfig's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_PRESET = "concept"
LAYERS_PRESET = "action"  # what a LoRA in layers, and every method but ADDifT, starts from
_OF_LAYERS = frozenset(
    (
        "rank",
        "alpha",
        "dora",
        "dropout",
        "lokr_factor",
        "layers",
        "train_text_encoder",
        "lora_plus_ratio",
        "result_rank",
    )
)

PRESETS: dict[str, dict[str, Any]] = {
    # What could be said in words, whatever it is: it holds for other pictures than the one pair (docs/lab.md).
    "concept": {
        "algorithm": "shift", "rank": 1, "alpha": 1.0, "blocks": ("IN", "MID", "OUT"), "max_train_steps": 30,
        "batch_size": 4, "learning_rate": 0.1, "train_multiplier": 1.0, "min_timestep": -1, "max_timestep": 1000,
        "target_share": 0.5, "mirror": "auto", "min_snr_gamma": 0.1,
    },
    # Eyes, mouth, pose, expression: what changes shape. It is decided at high noise.
    "action": {"min_timestep": 500, "max_timestep": 1000},
    # Texture, line, palette: over the whole picture, so there is no area to mask. New pictures show it a little weaker
    # than their own pair does (docs/lab.md).
    "style": {"min_timestep": 500, "max_timestep": 1000, "mask": "off", "strength": 1.25},
    # Small things in one place: a mouth, jewellery, buttons. New pictures show them weaker than their own pair does.
    "detail": {"min_timestep": 500, "max_timestep": 1000, "strength": 2.0},
}  # fmt: skip


def preset_for(preset: str, settings: Mapping[str, Any]) -> str:
    """The preset under these settings: '' is the default, or LAYERS_PRESET where they are about a LoRA in layers.

    ADDifT alone learns a shift as the default does; for the other methods LAYERS_PRESET takes its place.
    """
    if preset not in {"", DEFAULT_PRESET}:
        return preset
    is_other_method = settings.get("method", "addift") != "addift"
    is_about_layers = settings.get("algorithm", "shift") != "shift" or not _OF_LAYERS.isdisjoint(settings)
    return LAYERS_PRESET if is_other_method or (not preset and is_about_layers) else DEFAULT_PRESET
