"""The UNet of a world, trained by denoising, and a single text model with it.

Of several text models the UNet gets states that no layer norm has scaled. Trained along, they would make what pays off
first, the position, ever larger, and everything else would drown in it: they stay as `pretrain_text` left them.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lib_addift.diffusion.schedule import NoiseSchedule, scaled_linear_alphas_cumprod
from lib_addift.experiments.world_checkpoint import WorldModels
from lib_addift.experiments.worlds.data import World
from lib_addift.experiments.worlds.loop import SavedState, optimizer_step, rate_share, run_stage
from lib_addift.experiments.worlds.precision import mixed_precision
from lib_addift.experiments.worlds.text import encoder_of
from lib_addift.families import SIZE_WIDTH, SIZES
from lib_addift.hosts.standalone_models import run_unet

_RATE = 1.5e-3

Look = Callable[[int, WorldModels], None]


def train_unet(
    models: WorldModels, world: World, saved: SavedState,
    *, latents: torch.Tensor, subjects: list[Any], steps: int, batch: int, seed: int, look: Look,
) -> WorldModels:  # fmt: skip
    """Denoising with epsilon prediction; returns averaged (EMA) copies of the models.

    Args:
        latents: of the pictures of `subjects`, scaled to variance 1, (count, 4, size, size).
        look: called after every step with the number of steps done and the averaged models.
    """
    encode, schedule = encoder_of(models), NoiseSchedule(scaled_linear_alphas_cumprod())
    unet = models.unet.to(memory_format=torch.channels_last).train()
    if models.family.has_vector:
        _leave_sizes_out(unet.add_embedding.linear_1)
    texts_learn = len(models.texts) == 1
    trained = torch.nn.ModuleList([unet, models.texts] if texts_learn else [unet])
    averaged = copy.deepcopy(trained).eval().requires_grad_(False)
    texts = torch.nn.ModuleList(averaged[1].children()) if texts_learn else models.texts
    result = replace(models, unet=averaged[0], texts=texts)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=_RATE, betas=(0.9, 0.99), weight_decay=1e-3)

    def train_step(step: int) -> str:
        rng = random.Random(seed * 1_000_003 + step)
        index = torch.randint(0, len(latents), (batch // 2,))
        captions = [world.random_caption(subjects[i], rng) for i in index.tolist()]
        # Each picture and caption gets two timesteps, because the text models take time too.
        with torch.set_grad_enabled(texts_learn):
            cond = encode(captions).repeat(2)
        clean = latents[index].repeat(2, 1, 1, 1).to(memory_format=torch.channels_last)
        noise, timesteps = torch.randn_like(clean), torch.randint(0, 1000, (batch,))
        with mixed_precision():
            noise_pred = run_unet(unet, schedule.add_noise(clean, noise, timesteps), timesteps, cond)
        error = (noise_pred.float() - noise).square().mean(dim=(1, 2, 3))
        loss = (_weight(schedule.snr(timesteps)) * error).mean()
        optimizer_step(optimizer, loss, _RATE * rate_share(step, steps))
        _follow(averaged, trained, step)
        look(step + 1, result)
        return f"loss {loss.item():.4f} error {error.mean().item():.4f}" if step % 20 == 0 else ""

    parts = {"trained": trained, "averaged": averaged, "optimizer": optimizer}
    run_stage("unet", parts, train_step, saved, steps=steps, seed=seed)
    return result


def _leave_sizes_out(layer: torch.nn.Linear) -> None:
    """The numbers on sizes get no gradient: 1536 inputs that never change.

    Adam would move all their weights at once, a thousand times as fast as a bias, and leave the layer dead.
    """
    pooled = layer.in_features - SIZES * SIZE_WIDTH
    layer.weight.register_hook(lambda gradient: torch.cat([gradient[:, :pooled], 0 * gradient[:, pooled:]], dim=1))


def _weight(snr: torch.Tensor) -> torch.Tensor:
    """The loss weight by signal-to-noise ratio: min-SNR (gamma 5), plus more for high noise.

    Min-SNR alone makes good pictures fast, but hardly uses the text: it matters where the content is decided.
    """
    return snr.clamp(max=5.0) / snr + (1 / snr).clamp(max=20.0)


@torch.no_grad()
def _follow(averaged: torch.nn.Module, trained: torch.nn.Module, step: int) -> None:
    share = 1 - min(0.999, (step + 1) / (step + 10))
    torch._foreach_lerp_(list(averaged.parameters()), list(trained.parameters()), share)
