"""SDXL's conditions on a picture's size, which follow from its latents: it is whole, and drawn at its own size."""

from __future__ import annotations

import math

import torch

from lib_addift.families import PIXELS_PER_LATENT, SIZE_WIDTH


def picture_sizes(latents: torch.Tensor) -> torch.Tensor:
    """(B, 6) for latents (B, C, h, w): height and width of the original, the crop's corner, and the size that is drawn.

    Source: Podell et al. 2023 (SDXL), section 2.2.
    """
    height, width = (PIXELS_PER_LATENT * side for side in latents.shape[2:])
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=latents.dtype, device=latents.device)
    return sizes.expand(len(latents), -1)


def vector_with_sizes(pooled: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """What a CompVis UNet takes as `y`: the pooled text (B, n) and sine and cosine of the sizes, (B, n + 6 * 256).

    Source of the embedding: Ho et al. 2020, as for timesteps; cosines come first.
    """
    half = SIZE_WIDTH // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=latents.device) / half)
    angles = picture_sizes(latents).float()[..., None] * frequencies
    return torch.cat([pooled, torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1).to(pooled.dtype)], dim=1)
