"""How well a checkpoint draws its world: pictures from full captions, read by the world's detectors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from lib_addift.diffusion.sampler import Guidance, ddim, ddim_timesteps
from lib_addift.experiments.worlds.data import World
from lib_addift.hosts.standalone import StandaloneHost

_GUIDANCE = 4.0


def read_prompted(
    checkpoint: Path, world: World, *, count: int, seed: int, steps: int = 20
) -> tuple[dict[str, float], np.ndarray]:
    """For each attribute the share of pictures that show what was prompted, and the pictures as uint8."""
    subjects = world.subjects(count, seed)
    pictures = _drawn(checkpoint, [world.module.caption(subject) for subject in subjects], world, seed, steps)
    hits: Counter[str] = Counter()
    for picture, subject in zip(pictures, subjects, strict=True):
        reading = world.module.detect(picture)
        hits.update(name for name in world.attributes if reading[name] == getattr(subject, name))
    return {name: hits[name] / count for name in world.attributes}, pictures


@torch.no_grad()
def _drawn(checkpoint: Path, prompts: list[str], world: World, seed: int, steps: int) -> np.ndarray:
    host = StandaloneHost(checkpoint)
    size = world.latent_size
    latents = torch.randn(len(prompts), 4, size, size, generator=torch.Generator("cpu").manual_seed(seed))
    guidance = Guidance(host.encode_prompts([""]), _GUIDANCE)
    cond = host.encode_prompts(prompts)
    clean = ddim(
        host, latents.to(host.device), cond, ddim_timesteps(steps), network=None,
        multipliers=torch.zeros(len(prompts), device=host.device), guidance=guidance,
    )  # fmt: skip
    return host.decode_latents(clean)
