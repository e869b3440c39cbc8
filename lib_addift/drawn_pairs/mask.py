"""Where two prompts disagree about a picture: the mask of DiffEdit, found from the difference of two predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from lib_addift.data.mask import WHOLE_SHARE
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.sampler import ddim_timesteps
from lib_addift.diffusion.schedule import NoiseSchedule

# Of the noise. At which one predictions differ most in what the prompts disagree about depends on what that is.
_STRENGTHS = (0.5, 0.6, 0.7, 0.8)
_NOISES = 2  # of each strength
_PEAK = 0.98  # quantile of the difference that counts as 1, so that a single latent pixel does not decide
_THRESHOLD = 0.3  # of the peak
_SMOOTH = 32  # means over a 32nd of the picture in all directions make the difference steady and the mask's edge soft


@torch.no_grad()
def masks_from_prompts(
    model: Model, clean: torch.Tensor, original: Conditions, target: Conditions, seeds: Sequence[int]
) -> torch.Tensor:
    """(B, 1, h, w) float32 in 0..1 for pictures (B, C, h, w): 1 where the prompts disagree, softly 0 elsewhere.

    All 1 for a picture that changes on more than 60 % of its area: then it changes as a whole. `seeds` are those of
    the noises of each picture.

    Source: Couairon et al. 2022 (DiffEdit), section 3.2, step 1. The difference is averaged over the noises before its
    absolute value is taken, which leaves less noise in it, and over several strengths of the noise.
    """
    difference = prompt_difference(model, clean, (original, target), seeds)
    height, width = difference.shape[-2:]
    radius = max(height, width) // _SMOOTH // 2
    smooth = _smoothed(difference, radius)
    peak = smooth.flatten(1).quantile(_PEAK, dim=1).view(-1, 1, 1, 1)
    inside = (smooth > _THRESHOLD * peak).float()
    soft = _smoothed(inside, radius)
    is_whole = inside.mean(dim=(1, 2, 3), keepdim=True) > WHOLE_SHARE
    return torch.where(is_whole, torch.ones_like(soft), soft)


@torch.no_grad()
def prompt_difference(
    model: Model, clean: torch.Tensor, conds: tuple[Conditions, Conditions], seeds: Sequence[int]
) -> torch.Tensor:
    """(B, 1, h, w): how much the predictions for noised pictures under two prompts differ at each latent pixel."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    schedule, both = NoiseSchedule(model.alphas_cumprod), Conditions.cat(conds)
    total = torch.zeros_like(clean[:, :1])
    for strength in _STRENGTHS:
        t = ddim_timesteps(1, strength)[0]
        timesteps = torch.full((len(clean),), t, device=clean.device)
        difference = torch.zeros_like(clean)
        for _ in range(_NOISES):
            noise = torch.stack([torch.randn(clean.shape[1:], generator=generator) for generator in generators])
            noisy = schedule.add_noise(clean, noise.to(clean.device), timesteps)
            first, second = model.predict_noise(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), both).chunk(2)
            difference += second - first
        level = difference.abs().mean(dim=1, keepdim=True)
        total += level / level.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-9)
    return total / len(_STRENGTHS)


def _smoothed(values: torch.Tensor, radius: int) -> torch.Tensor:
    """The mean over the (2 radius + 1) squared latent pixels around each, edges repeated."""
    if radius == 0:
        return values
    padded = F.pad(values, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)
