"""A deterministic DDIM sampler for the preview strip, the round trip and the standalone host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Model
from lib_addift.lora.network import LoraNetwork


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: predictions move away from `uncond`. Source: Ho & Salimans 2022, eq. 6."""

    uncond: Conditions  # of one prompt, or of one for each sample
    scale: float


def ddim_timesteps(steps: int, strength: float = 1.0, total: int = 1000) -> list[int]:
    """`steps` evenly spaced timesteps from `strength * total` - 1 down, for a schedule of `total` timesteps."""
    start = max(1, round(total * strength)) - 1
    return [round(start * (steps - k) / steps) for k in range(steps)]


@torch.no_grad()
def ddim(
    model: Model,
    latents: torch.Tensor,
    cond: Conditions,
    timesteps: Sequence[int],
    *,
    network: LoraNetwork | None = None,
    multipliers: torch.Tensor | None = None,
    guidance: Guidance | None = None,
) -> torch.Tensor:
    """Denoise `latents` (B, C, h, w), which have the noise of timesteps[0]; returns clean latents of that shape.

    `cond` has B prompts. With a `network`, which the caller has attached, sample b runs at multipliers[b]. Raises
    ValueError without timesteps.

    Source: Song et al. 2020, eq. 12 with eta 0.
    """
    abar = model.alphas_cumprod.to(latents.device)
    doubled = 2 if guidance else 1
    if network is not None and multipliers is not None:
        network.multiplier = multipliers.repeat(doubled)
    if guidance is not None:
        cond = Conditions.cat([guidance.uncond.expand(len(cond)), cond])
    for now, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        t = torch.full((len(latents) * doubled,), now, device=latents.device)
        noise_pred = model.predict_noise(latents.repeat(doubled, 1, 1, 1), t, cond)
        if guidance is not None:
            uncond_pred, cond_pred = noise_pred.chunk(2)
            noise_pred = uncond_pred + guidance.scale * (cond_pred - uncond_pred)
        clean = (latents - (1 - abar[now]).sqrt() * noise_pred) / abar[now].sqrt()
        if after is None:
            return clean
        latents = abar[after].sqrt() * clean + (1 - abar[after]).sqrt() * noise_pred
    raise ValueError("ddim needs at least one timestep")
