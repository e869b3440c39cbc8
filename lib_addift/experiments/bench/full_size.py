"""A checkpoint of full size with random weights: as fast and as large as a real one; its pictures are noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from lib_addift.experiments.world_checkpoint import WorldModels, save_checkpoint
from lib_addift.families import SD15, Family
from lib_addift.hosts.standalone_models import text_model, unet_arguments


def write_full_size(path: Path, seed: int = 0, family: Family = SD15) -> None:
    """Write it: 2.1 GB of SD1.5, 7 GB of SDXL. Needs three times as much memory."""
    generator = torch.Generator("cpu").manual_seed(seed)
    unet, vae = (_random_model(build, generator) for build in (partial(build_unet, family), _vae))
    texts = [
        _random_model(
            partial(
                text_model, encoder, tokens=49408, width=encoder.width, layers=encoder.layers,
                fully_connected=4 * encoder.width,
            ),
            generator,
        )
        for encoder in family.text_encoders
    ]  # fmt: skip
    save_checkpoint(path, WorldModels(family, unet, vae, nn.ModuleList(texts)), {})


def build_unet(family: Family) -> UNet2DConditionModel:
    """The release's UNet."""
    return UNet2DConditionModel(**unet_arguments(family, family.widths, family.context_width, family.vector_width))


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )


@torch.no_grad()
def _random_model(build: Callable[[], Any], generator: torch.Generator) -> Any:
    """Built in fp16, which halves the peak memory; random weights with standard deviation 1 / sqrt(fan-in)."""
    with torch.device("meta"):
        model = build().half()
    model = model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model
