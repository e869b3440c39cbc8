"""A deterministic DDIM sampler and its inversion: for previews, round trip, drawn pairs and the standalone host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    after_step: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Denoise `latents` (B, C, h, w), which have the noise of timesteps[0]; returns clean latents of that shape.

    `cond` has B prompts. With a `network`, which the caller has attached, sample b runs at multipliers[b]. After each
    step, the last one too, `after_step` gets the latents and returns those to go on with. Raises ValueError without
    timesteps.

    Source: Song et al. 2020, eq. 12 with eta 0.
    """
    abar = model.alphas_cumprod.to(latents.device)
    keep = after_step or (lambda unchanged: unchanged)
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
            return keep(clean)
        latents = keep(abar[after].sqrt() * clean + (1 - abar[after]).sqrt() * noise_pred)
    raise ValueError("ddim needs at least one timestep")


@torch.no_grad()
def ddim_inversion(
    model: Model, latents: torch.Tensor, cond: Conditions, timesteps: Sequence[int]
) -> list[torch.Tensor]:
    """The noisy latents from which `ddim`, without guidance, nearly draws the clean `latents` (B, C, h, w) again.

    Returns those at each of `timesteps`, which fall, in their order. `cond` has B prompts.

    Source: Song et al. 2020, section 4.3: eq. 12 from the picture towards the noise.
    """
    abar = model.alphas_cumprod.to(latents.device)
    level = torch.ones((), device=latents.device)  # abar of `latents`: at first there is no noise in them
    found = []
    for t in reversed(timesteps):
        noise_pred = model.predict_noise(latents, torch.full((len(latents),), t, device=latents.device), cond)
        clean = (latents - (1 - level).sqrt() * noise_pred) / level.sqrt()
        level = abar[t]
        latents = level.sqrt() * clean + (1 - level).sqrt() * noise_pred
        found.append(latents)
    return found[::-1]
