"""What a drawing gives: pairs of pictures with their captions, how they are drawn, and how far the drawing is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.data.pictures import GRID
from lib_addift.errors import ConfigError

BLEND = ("auto", "off")
MOST_PAIRS = 1000
_RULES: dict[str, tuple[float, float]] = {
    "steps": (2, 1000), "guidance": (1.0, 30.0), "width": (GRID, 2048), "height": (GRID, 2048), "seed": (0, 2**62),
}  # fmt: skip


@dataclass(frozen=True)
class DrawSettings:
    """How pictures are drawn. Raises ConfigError when a value breaks a rule."""

    steps: int = 24  # of DDIM
    guidance: float = 7.0  # scale of classifier-free guidance
    width: int = 512  # px, as `height` a multiple of 64; pictures that are given keep their own size
    height: int = 512
    seed: int = 1  # of the first pair; the next ones count on from it
    negative_prompt: str = ""
    blend: str = "auto"  # auto: what is outside of the change stays the original's; off: both pictures are drawn freely

    def __post_init__(self) -> None:
        for name, (low, high) in _RULES.items():
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not low <= value <= high or (name != "guidance" and value != int(value)):
                whole = "a number" if name == "guidance" else "a whole number"
                raise ConfigError(f"{name} = {value!r} is out of bounds: it must be {whole} from {low} to {high}.")
        for name in ("width", "height"):
            if getattr(self, name) % GRID:
                raise ConfigError(f"{name} = {getattr(self, name)} is not a multiple of {GRID} px: choose one that is.")
        if self.blend not in BLEND:
            raise ConfigError(f"blend = {self.blend!r} is no choice: use one of {', '.join(BLEND)}.")

    @classmethod
    def of(cls, config: TrainConfig, **changes: Any) -> DrawSettings:
        """The seed, resolution, guidance and steps of a training, with `changes`. Raises ConfigError."""
        side = config.resolution // GRID * GRID
        own = {"seed": min(config.seed, 2**62), "steps": max(2, config.sampling_steps), "width": side, "height": side}
        return cls(**{**own, "guidance": config.preview_cfg_scale, **changes})


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, so pairs compare by identity
class DrawnPair:
    """An original and its target, and the captions under which each is trained."""

    original: np.ndarray  # (H, W, 3) uint8, RGB; H and W multiples of 64
    target: np.ndarray  # the same shape
    original_prompt: str
    target_prompt: str
    seed: int  # of the noise
    size: float  # 0 to 1: the mean difference of the cells that change most
    concentration: float  # 0 to 1: the share of the difference that lies in the quarter of the cells that changes most
    mask: np.ndarray | None = None  # (H, W) float32 in 0..1: what was drawn anew in the target; None = everything

    def source(self, name: str) -> PairSource:
        """The pair under a name, to be trained under its captions."""
        return PairSource(self.original, self.target, name, self.original_prompt, self.target_prompt)


@dataclass(frozen=True)
class Drawing:
    """How far a drawing is. The last one holds the result."""

    text: str  # what is being done
    done: int  # pairs drawn
    total: int  # pairs to draw, as far as is known now
    pairs: tuple[DrawnPair, ...] = ()  # the good ones so far, in the order in which they are to be shown
    rejected: int = 0  # pairs that were drawn and are not among them


def check_count(count: int) -> None:
    """Raises ConfigError when so many pairs cannot be asked for."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_PAIRS:
        raise ConfigError(f"count = {count!r} is out of bounds: it must be a whole number from 1 to {MOST_PAIRS}.")
