"""Latents of originals and targets as DrawnPairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from lib_addift.diffusion.host import Model
from lib_addift.drawn_pairs.choose import measure
from lib_addift.drawn_pairs.pair import DrawnPair


def drawn_pairs(
    model: Model,
    latents: tuple[torch.Tensor, torch.Tensor],
    captions: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    mask: torch.Tensor | None = None,
) -> list[DrawnPair]:
    """The pairs of clean latents (B, C, h, w) of originals and targets, decoded and measured."""
    originals, targets = (model.decode_latents(each) for each in latents)
    masks: list[np.ndarray | None] = [None] * len(originals)
    if mask is not None:
        grown = F.interpolate(mask, originals.shape[1:3], mode="bilinear").squeeze(1).cpu().numpy()
        masks = [None if each.min() == 1 else each for each in grown]
    pairs = []
    for original, target, (first, second), seed, each in zip(originals, targets, captions, seeds, masks, strict=True):
        pairs.append(as_drawn(original, target, (first, second), seed, each))
    return pairs


def as_drawn(
    original: np.ndarray, target: np.ndarray, captions: tuple[str, str], seed: int, mask: np.ndarray | None = None
) -> DrawnPair:
    """Two pictures (H, W, 3) uint8 as a DrawnPair, with their change measured."""
    change = measure(original, target)
    return DrawnPair(original, target, *captions, seed, change.size, change.concentration, mask)
