"""Pairs of pictures as the UNet sees them: latents and conditions, each encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.diffusion.conditions import Conditions, encode_to_length
from lib_addift.diffusion.host import Model
from lib_addift.lora.network import LoraNetwork

_FAINT = 0.1  # share of the largest squared difference, at which a cell counts as half changed
UNRELATED_PROMPTS = (
    "", "a photo of a street", "a landscape with mountains", "a dog on the grass", "a portrait of an old man",
    "a bowl of fruit", "a drawing of a castle", "an empty room",
)  # fmt: skip


class Direction(Enum):
    """FORWARD teaches original -> target at +multiplier; REVERSE target -> original at -multiplier."""

    FORWARD = "forward"
    REVERSE = "reverse"

    @property
    def opposite(self) -> Direction:
        return Direction.REVERSE if self is Direction.FORWARD else Direction.FORWARD


class Role(Enum):
    """What a pair is for in training."""

    LEARN = "its difference, or its target, is learnt"
    HELD_OUT = "left out of training, to measure on"
    KEEP = "the model's prediction for it must stay: the same on both sides"
    PRIOR = "a regularisation picture: drawn as ever, the same on both sides"


@dataclass(frozen=True)
class Side:
    """One picture of a pair: its latents and the conditions of its prompt."""

    latents: torch.Tensor  # (1, C, h, w) float32, scaled as the UNet expects
    cond: Conditions  # of one prompt, float32
    prompt: str = ""  # whose conditions `cond` are


@dataclass(frozen=True)
class LatentPair:
    """Both pictures of a pair, with what the loss needs to know of them."""

    original: Side
    target: Side
    mask: torch.Tensor | None  # (1, 1, h, w) float32 weights of the loss; None: 1 everywhere
    weight: float = 1.0  # of its loss
    repeats: int = 1  # how many times as often as another pair it is trained on
    role: Role = Role.LEARN

    @cached_property
    def change(self) -> torch.Tensor:
        """(1, 1, h, w): 0 in cells of the latents that are the same in both pictures, near 1 in those that differ."""
        energy = (self.target.latents - self.original.latents).square().sum(dim=1, keepdim=True)
        return energy / (energy + _FAINT * energy.max()).clamp(min=torch.finfo(energy.dtype).tiny)

    @property
    def shape(self) -> tuple[int, ...]:
        """What must agree for pairs to share a pass: (1, C, h, w) of the latents, then the shape of the conditions."""
        return (*self.original.latents.shape, *self.original.cond.shape)

    def student(self, direction: Direction) -> Side:
        """The side on which the model with the LoRA is trained: the target in the forward direction."""
        return self.target if direction is Direction.FORWARD else self.original

    def reference(self, direction: Direction) -> Side:
        """The side for which the frozen model is asked: the original in the forward direction."""
        return self.original if direction is Direction.FORWARD else self.target


@torch.no_grad()
def conds_at(
    model: Model, prompts: Sequence[str], conds: Conditions, network: LoraNetwork, multipliers: torch.Tensor
) -> Conditions:
    """The conditions of B prompts, each with the LoRA at its own multiplier (B,); `network` must be attached.

    `conds` are those without LoRA, which are returned when the LoRA does not change the text model.
    """
    if not network.has_text:
        return conds
    network.multiplier = multipliers
    return encode_to_length(model.encode_prompts, prompts, conds.tokens)


@torch.no_grad()
def encode_pair(
    model: Model, pair: ImagePair, config: TrainConfig, prompts: tuple[str, str] | None = None, weight: float = 1.0
) -> LatentPair:
    """The latents, conditions and loss mask of a pair, with the VAE posterior's mean: a sample of it would be noisy.

    `prompts` are those of the original and of the target; None means the settings'. `weight` is that of the loss.
    """
    latents = model.encode_images(np.stack([pair.original, pair.target])).float()
    prompts = prompts or config.prompts()
    conds = model.encode_prompts(prompts).float()
    mask = None
    if pair.mask is not None:
        area = torch.from_numpy(pair.mask)[None, None]
        area = F.interpolate(area, size=latents.shape[-2:], mode="area").to(latents.device)
        mask = config.mask_floor + (1 - config.mask_floor) * area
    return LatentPair(Side(latents[:1], conds[:1], prompts[0]), Side(latents[1:], conds[1:], prompts[1]), mask, weight)


@torch.no_grad()
def unrelated_pairs(model: Model, like: LatentPair, config: TrainConfig) -> list[LatentPair]:
    """Regularisation on what the LoRA must not change: noise in the size of `like`, with prompts unrelated to it."""
    generator = torch.Generator("cpu").manual_seed(config.seed)
    pairs = []
    conds = model.encode_prompts(UNRELATED_PROMPTS).float().split()
    for prompt, cond in zip(UNRELATED_PROMPTS, conds, strict=True):
        latents = torch.randn(like.original.latents.shape, generator=generator).to(like.original.latents.device)
        side = Side(latents, cond, prompt)
        pairs.append(LatentPair(side, side, None, weight=config.self_regularisation, role=Role.KEEP))
    return pairs
