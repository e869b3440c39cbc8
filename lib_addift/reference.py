"""The frozen half of every step, ahead of training: the model's own predictions, in large batches, without the LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from lib_addift.encode import LatentPair, Side
from lib_addift.hosts.base import Host
from lib_addift.plan import Plan, Turn, turn_noise
from lib_addift.schedule import NoiseSchedule

_LATENT_PIXELS_AT_ONCE = 8 * 64 * 64  # eight pictures of 512 px: under 2 GB of activations in fp16
_MOST_AT_ONCE = 64  # more of tiny ones gain nothing


def noisy_batch(
    sides: Sequence[Side], turns: Sequence[Turn], schedule: NoiseSchedule
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents (B, 4, h, w), timesteps (B,) and conditions (B, tokens, width) of some turns."""
    latents = torch.cat([side.latents for side in sides])
    noise = torch.cat([turn_noise(turn, side.latents.shape) for turn, side in zip(turns, sides, strict=True)])
    timesteps = torch.tensor([turn.timestep for turn in turns], device=latents.device)
    noisy_latents = schedule.add_noise(latents, noise.to(latents.device), timesteps)
    return noisy_latents, timesteps, torch.cat([side.cond for side in sides])


def samples_at_once(height: int, width: int) -> int:
    """How many samples with latents of this size go in one pass that needs no gradients."""
    return min(max(_LATENT_PIXELS_AT_ONCE // (height * width), 1), _MOST_AT_ONCE)


@torch.no_grad()
def predict_references(
    host: Host, pairs: Sequence[LatentPair], plan: Plan, batch_size: int = 0
) -> Iterator[tuple[Turn, torch.Tensor]]:
    """Yields every turn of the plan once, with the frozen model's (1, 4, h, w) epsilon for it.

    `batch_size` 0 chooses by the size of the latents. Call it before the LoRA is attached.
    """
    schedule = NoiseSchedule(host.alphas_cumprod)
    turns = list(dict.fromkeys(turn for step in plan for turn in step))
    by_shape: dict[tuple[int, ...], list[Turn]] = {}
    for turn in turns:
        by_shape.setdefault(pairs[turn.pair].shape, []).append(turn)
    for (_, _, height, width, *_), alike in by_shape.items():
        size = batch_size or samples_at_once(height, width)
        for start in range(0, len(alike), size):
            chunk = alike[start : start + size]
            sides = [pairs[turn.pair].reference(turn.direction) for turn in chunk]
            noise_pred = host.predict_noise(*noisy_batch(sides, chunk, schedule))
            yield from zip(chunk, noise_pred.split(1), strict=True)
