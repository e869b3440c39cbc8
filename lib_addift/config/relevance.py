"""Which settings act only beside certain others: a form can hide them, and nothing is learnt otherwise without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OWN_DIRECTIONS = ("addift",)  # methods whose samples have the directions of the settings
_TWO_LORAS = ("copier", "differential", "residual")

# setting -> {another setting: the values of that with which it acts}
ACTS_WITH: dict[str, dict[str, tuple[Any, ...]]] = {
    "first_train_steps": {"method": _TWO_LORAS},
    "first_lora": {"method": ("copier", "residual")},
    "result_rank": {"method": ("differential", "residual")},
    "prior_loss_weight": {"method": ("lora",)},
    "search": {"method": ("addift",)},
    "directions": {"method": _OWN_DIRECTIONS},
    "first_direction": {"method": _OWN_DIRECTIONS},
    "target_share": {"method": _OWN_DIRECTIONS},
    "reverse_ratio": {"method": _OWN_DIRECTIONS, "directions": ("alternate", "both")},
    "rank": {"algorithm": ("lora", "loha", "lokr")},
    "alpha": {"algorithm": ("lora", "loha", "lokr")},
    "dora": {"algorithm": ("lora",)},
    "layers": {"algorithm": ("lora", "loha", "lokr")},
    "lokr_factor": {"algorithm": ("lokr",)},
    "text_encoder_rate": {"train_text_encoder": (True,)},
    "huber_delta": {"loss": ("huber",)},
    "lr_end_ratio": {"lr_schedule": ("linear", "cosine")},
    "mask_file": {"mask": ("file",)},
}


def acts(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting makes a difference beside these."""
    return all(settings[other] in values for other, values in ACTS_WITH.get(name, {}).items())
