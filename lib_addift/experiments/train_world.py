"""Trains a bundled checkpoint: `python -m lib_addift.experiments.train_world --world avatars --out NAME.safetensors`.

Four stages on generated pictures: the VAE, whose latents are brought to SD's scale by an exact change of basis; the
text model alone; then the UNet and the text model together by denoising. Everything is seeded; figures go to stdout
and into the file's metadata. With `--state` an interrupted run goes on where it was. Needs diffusers and transformers.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lib_addift.experiments.world_checkpoint import WorldModels, build_models, save_checkpoint
from lib_addift.experiments.worlds.data import WORLDS, World
from lib_addift.experiments.worlds.judge import read_prompted
from lib_addift.experiments.worlds.loop import SavedState
from lib_addift.experiments.worlds.text import pretrain_text
from lib_addift.experiments.worlds.unet import train_unet
from lib_addift.experiments.worlds.vae import encode, train_vae
from lib_addift.families import FAMILIES
from lib_addift.hosts.checkpoint import Checkpoint, read_checkpoint

_PICTURES = 2048
_DRAWN = 32  # pictures of a look, in rows of eight


def main() -> None:
    options = _options()
    torch.set_flush_denormal(True)
    start = time.monotonic()
    world, saved = WORLDS[options.world], SavedState(options.state)
    models = _models(world, options)
    subjects = world.subjects(_PICTURES, options.seed)
    latents = _latents(models, world, subjects, saved, options)
    pretrain_text(models, world, saved, steps=options.text_steps, batch=options.text_batch, seed=options.seed)

    def look(step: int, averaged: WorldModels) -> None:
        if step % options.look_every == 0 or step == options.unet_steps:
            figures = {k: v for k, v in vars(options).items() if isinstance(v, int)} | {"steps": step}
            save_checkpoint(options.out, averaged, {"addift.world": json.dumps(figures)})
            _report(options.out, world, step)

    train_unet(
        models, world, saved, latents=latents, subjects=subjects, steps=options.unet_steps,
        batch=options.unet_batch, seed=options.seed, look=look,
    )  # fmt: skip
    print(f"done {time.monotonic() - start:.0f} s", flush=True)


def _latents(
    models: WorldModels, world: World, subjects: list[Any], saved: SavedState, options: argparse.Namespace
) -> torch.Tensor:
    """Train the VAE, and return the scaled latents of the subjects' pictures, (count, 4, size, size)."""
    vae, scale = models.vae, models.family.latent_scale
    if "encoded" not in saved:
        pictures = world.pictures(subjects)
        print(f"{len(pictures)} pictures painted", flush=True)
        train_vae(
            vae, pictures, saved, steps=options.vae_steps, batch=options.vae_batch, seed=options.seed, scale=scale
        )
        saved.write("encoded", {"vae": vae.state_dict(), "latents": encode(vae, pictures) * scale})
    vae.load_state_dict(saved["encoded"]["vae"])
    latents: torch.Tensor = saved["encoded"]["latents"]
    return latents


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=list(WORLDS), default="avatars")
    parser.add_argument("--family", choices=[family.name for family in FAMILIES], default="SD1.5")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="keep the state here every 5 minutes, and go on from it")
    parser.add_argument("--init", type=Path, help="start from the weights of this checkpoint, where they fit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vae-steps", type=int, default=800)
    parser.add_argument("--vae-batch", type=int, default=2)
    parser.add_argument("--text-steps", type=int, default=300)
    parser.add_argument("--text-batch", type=int, default=32)
    parser.add_argument("--unet-steps", type=int, default=2000)
    parser.add_argument("--unet-batch", type=int, default=32)
    parser.add_argument("--look-every", type=int, default=150, help="steps from one look at drawn pictures to the next")
    return parser.parse_args()


def _models(world: World, options: argparse.Namespace) -> WorldModels:
    torch.manual_seed(options.seed)
    family = next(family for family in FAMILIES if family.name == options.family)
    models = build_models(family, world.module.SIZE)
    if options.init is not None:
        _start_from(models, read_checkpoint(options.init))
    return models


def _start_from(models: WorldModels, parts: Checkpoint) -> None:
    """Take over the weights of another checkpoint: all of the same family's, and the VAE of the other one's."""
    models.vae.load_state_dict(parts.vae)
    if models.family is parts.family:
        models.unet.load_state_dict(parts.unet)
        for text, weights in zip(models.texts, parts.texts, strict=True):
            text.load_state_dict(weights)


def _report(checkpoint: Path, world: World, step: int) -> None:
    """Print the share of right attributes in pictures drawn by the checkpoint, and put the pictures beside it."""
    start = time.monotonic()
    shares, pictures = read_prompted(checkpoint, world, count=_DRAWN, seed=17, steps=12)
    rows = [np.concatenate(list(pictures[first : first + 8]), axis=1) for first in range(0, len(pictures), 8)]
    Image.fromarray(np.concatenate(rows)).save(checkpoint.with_suffix(f".{step}.png"))
    figures = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    print(f"look {step}: {figures} ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
