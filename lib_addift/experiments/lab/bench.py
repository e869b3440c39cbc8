"""The set-up of all measurements: the model, how much is drawn, and pictures that all methods share."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lib_addift.diffusion.host import Host, lora_modules
from lib_addift.diffusion.sampler import Guidance, ddim, ddim_timesteps
from lib_addift.experiments.lab.world import World
from lib_addift.files import replace_files
from lib_addift.lora.network import LoraNetwork

NOISE_SEED = 10_000_000  # of the measured pictures; training counts up from far below
GUIDANCE = 4.0


@dataclass(frozen=True)
class Scale:
    """How many pictures are drawn, and with how many sampling steps."""

    faces: int = 24
    growth_faces: int = 8  # of these, at the weights 0.5 and 2
    sampling_steps: int = 8


QUICK = Scale(faces=6, growth_faces=3, sampling_steps=4)


@dataclass(frozen=True, eq=False)
class Bench:
    """A world, the host with its checkpoint, and how much to draw; pictures without a LoRA are cached in `folder`."""

    world: World
    host: Host
    scale: Scale
    folder: Path

    def draw(
        self,
        prompts: Sequence[str],
        seed: int,
        network: LoraNetwork | None = None,
        weight: float = 0.0,
        *,
        numbers: Sequence[int] | None = None,
    ) -> np.ndarray:
        """One picture for each prompt, (B, h, w, 3) uint8, all in one batch.

        Picture n starts from noise n of `seed` for all methods, or from noise `numbers[n]`. `network` must be attached.
        """
        host = self.host
        places = range(len(prompts)) if numbers is None else numbers
        with host.exclusive():
            if network is not None:
                network.multiplier = weight  # also for the text model, on which it may act
            cond, uncond = host.encode_prompts(list(prompts)), host.encode_prompts([""])
            clean = ddim(
                host, self._noise(places, seed), cond, ddim_timesteps(self.scale.sampling_steps), network=network,
                multipliers=torch.full((len(prompts),), weight, device=host.device),
                guidance=Guidance(uncond, GUIDANCE),
            )  # fmt: skip
            return host.decode_latents(clean)

    def _noise(self, places: Sequence[int], seed: int) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(NOISE_SEED + seed)
        latent = self.world.size // self.host.pixels_per_latent
        noise = torch.randn(max(places) + 1, self.host.latent_channels, latent, latent, generator=generator)
        return noise[list(places)].to(self.host.device)

    def base(self, prompts: Sequence[str], seed: int) -> np.ndarray:
        """`draw` without a LoRA, from the cache where it has these pictures."""
        asked = json.dumps([list(prompts), seed, self.scale.sampling_steps, self.host.model_hash])
        path = self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.npz"
        if path.exists():
            with np.load(path) as kept:
                return np.asarray(kept["pictures"])
        pictures, file = self.draw(prompts, seed), io.BytesIO()
        np.savez_compressed(file, pictures=pictures)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_files({path: file.getvalue()}, durable=False)
        return pictures

    def network(self, tensors: Mapping[str, torch.Tensor]) -> LoraNetwork:
        """A LoRA on the host's model."""
        return LoraNetwork.over(lora_modules(self.host), tensors)

    def through_vae(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Painted pictures encoded and decoded by the model's VAE, (B, h, w, 3) uint8."""
        with self.host.exclusive():
            return self.host.decode_latents(self.host.encode_images(np.stack(pictures)))
