"""Pictures from noise: the whole way of an original, and a target that keeps to it outside of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.memory import samples_at_once
from lib_addift.diffusion.sampler import Guidance, ddim

Size = tuple[int, int]  # height, width of latents


@dataclass(frozen=True)
class Way:
    """The latents (B, C, h, w) of a drawing at each of its timesteps, and at last the clean ones."""

    timesteps: Sequence[int]
    latents: Sequence[torch.Tensor]  # one more than timesteps

    @property
    def clean(self) -> torch.Tensor:
        return self.latents[-1]


@torch.no_grad()
def draw(
    model: Model, noisy: torch.Tensor, cond: Conditions, timesteps: Sequence[int], guidance: Guidance | None
) -> Way:
    """Denoise `noisy` (B, C, h, w), which have the noise of timesteps[0]."""
    latents = [noisy]

    def remember(now: torch.Tensor) -> torch.Tensor:
        latents.append(now)
        return now

    ddim(model, noisy, cond, timesteps, guidance=guidance, after_step=remember)
    return Way(timesteps, latents)


@torch.no_grad()
def draw_beside(
    model: Model, way: Way, cond: Conditions, mask: torch.Tensor, guidance: Guidance | None
) -> torch.Tensor:
    """Draw from the start of `way` under other prompts: clean latents (B, C, h, w), outside of `mask` as the way's.

    `mask` (B, 1, h, w) is 1 where the prompts decide. Source: Avrahami et al. 2022 (Blended Latent Diffusion), alg. 1,
    with the way's own latents in the place of the noised picture, as in DiffEdit (Couairon et al. 2022, step 3).
    """
    places = iter(way.latents[1:])

    def blend(now: torch.Tensor) -> torch.Tensor:
        return mask * now + (1 - mask) * next(places)

    return ddim(model, way.latents[0], cond, way.timesteps, guidance=guidance, after_step=blend)


def noise_of(model: Model, seeds: Sequence[int], size: Size) -> torch.Tensor:
    """(B, C, h, w): the noise of each seed, the same on every device and in every batch."""
    shape = (model.latent_channels, *size)
    each = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(each).to(model.device)


def pairs_at_once(size: Size) -> int:
    """How many pairs are drawn in one pass: each takes two samples, of its prompt and of the negative one."""
    return max(1, samples_at_once(*size) // 2)


def guided(negative: Conditions, scale: float) -> Guidance | None:
    """Guidance away from the negative prompt; None where the scale is 1, which changes nothing."""
    return Guidance(negative, scale) if scale > 1 else None
