"""From pictures to what the UNet sees: each picture and each prompt goes through the model once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from lib_addift.config import TrainConfig
from lib_addift.hosts.base import Host
from lib_addift.pairs import ImagePair
from lib_addift.plan import Direction


@dataclass(frozen=True)
class Side:
    """One picture of a pair in the model's terms."""

    latents: torch.Tensor  # (1, 4, h, w) float32, scaled as the UNet expects
    cond: torch.Tensor  # (1, tokens, width) float32


@dataclass(frozen=True)
class LatentPair:
    """Both pictures of a pair, and where to learn."""

    original: Side
    target: Side
    mask: torch.Tensor | None  # (1, 1, h, w) float32 weights
    weight: float = 1.0  # of its loss

    @property
    def shape(self) -> tuple[int, ...]:
        """What must agree for pairs to share a pass: the size of the latents and of the conditions."""
        return (*self.original.latents.shape, *self.original.cond.shape)

    def student(self, direction: Direction) -> Side:
        """What the LoRA sees: the target in a forward turn."""
        return self.target if direction is Direction.FORWARD else self.original

    def reference(self, direction: Direction) -> Side:
        """What the frozen model sees: the original in a forward turn."""
        return self.original if direction is Direction.FORWARD else self.target


@torch.no_grad()
def encode_pair(
    host: Host, pair: ImagePair, config: TrainConfig, prompts: tuple[str, str] | None = None, weight: float = 1.0
) -> LatentPair:
    """Latents (the VAE posterior's mean: a sample would add noise of its own to each picture) and conditions.

    `prompts` are those of the original and of the target; None = the settings'.
    """
    latents = host.encode_images(np.stack([pair.original, pair.target])).float()
    conds = host.encode_prompts(prompts or config.prompts()).float()
    mask = None
    if pair.mask is not None:
        area = torch.from_numpy(pair.mask)[None, None]
        area = F.interpolate(area, size=latents.shape[-2:], mode="area").to(latents.device)
        mask = config.mask_floor + (1 - config.mask_floor) * area
    return LatentPair(Side(latents[:1], conds[:1]), Side(latents[1:], conds[1:]), mask, weight)
