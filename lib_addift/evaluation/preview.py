"""The preview strip: one prompt and one seed, drawn with the LoRA at five weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from lib_addift.config.prompts import choose_alternatives
from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.latents import LatentPair, conds_at
from lib_addift.diffusion.memory import in_parts
from lib_addift.diffusion.sampler import Guidance, ddim, ddim_timesteps
from lib_addift.lora.network import LoraNetwork

WEIGHTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_CELL = 128  # px, the least width of a picture in a row; the text grows with wider ones
_LABEL_HEIGHT = 14  # px, for a picture of that width


def preview_prompts(config: TrainConfig, count: int) -> list[str]:
    """What `count` previews show, without the trigger word; empty where nothing is said.

    Each has alternatives of its own of the preview prompt; where there is none, all show the prompt of training.
    """
    if not config.preview_prompt:
        return [config.prompt] * count
    return [choose_alternatives(config.preview_prompt, config.seed + number) for number in range(count)]


@torch.no_grad()
def preview_strip(
    model: Model, network: LoraNetwork, pair: LatentPair, config: TrainConfig, weight: float
) -> Image.Image:
    """One picture for each of WEIGHTS, where weight 1 means the multiplier `weight`; `network` must be attached.

    The pictures have the size of `pair` and the seed, prompt and steps of `config`.
    """
    prompt = config.with_trigger(preview_prompts(config, 1)[0])
    noise = torch.randn(pair.original.latents.shape, generator=torch.Generator("cpu").manual_seed(config.seed))

    def drawn(weights: Sequence[float]) -> torch.Tensor:
        count = len(weights)
        multipliers = torch.tensor(weights, device=model.device) * weight
        network.multiplier = 0.0  # the plain conditions: the LoRA may be one of the text model too
        uncond, cond = (
            conds_at(model, [text] * count, plain.expand(count), network, multipliers)
            for text, plain in zip(("", prompt), model.encode_prompts(["", prompt]).split(), strict=True)
        )
        return ddim(
            model,
            noise.to(model.device).expand(count, -1, -1, -1),
            cond,
            ddim_timesteps(config.sampling_steps),
            network=network,
            multipliers=multipliers,
            guidance=Guidance(uncond, config.preview_cfg_scale) if prompt and config.preview_cfg_scale > 1 else None,
        )

    clean = torch.cat(in_parts(drawn, WEIGHTS))
    return labelled_row(model.decode_latents(clean), [f"{w:g}" for w in WEIGHTS])


def labelled_row(images: np.ndarray, labels: Sequence[str]) -> Image.Image:
    """(B, H, W, 3) uint8 pictures side by side, each with one of B labels under it.

    Pictures narrower than 128 px are enlarged by a whole factor.
    """
    enlarged = max(1, _CELL // images.shape[2])
    height, width = (enlarged * size for size in images.shape[1:3])
    below = label_height(width)
    size = (_CELL * below // _LABEL_HEIGHT, below)
    row = Image.new("RGB", (width * len(images), height + below), "white")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        row.paste(Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST), (index * width, 0))
        text = Image.new("RGB", (_CELL, _LABEL_HEIGHT), "white")
        ImageDraw.Draw(text).text((3, 1), label, fill="black")
        row.paste(text.resize(size, Image.Resampling.NEAREST), (index * width, height))
    return row


def label_height(width: int) -> int:
    """The height of the label under a picture so wide, in px; it grows, as a page shows a row a few hundred px wide."""
    return max(1, width // _CELL) * _LABEL_HEIGHT


def labelled_grid(images: np.ndarray, labels: Sequence[str], columns: int) -> Image.Image:
    """(B, H, W, 3) uint8 pictures in rows of `columns`, each row a `labelled_row`; the last one may be shorter."""
    rows = [
        labelled_row(images[start : start + columns], labels[start : start + columns])
        for start in range(0, len(images), columns)
    ]
    grid = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        grid.paste(row, (0, number * rows[0].height))
    return grid
