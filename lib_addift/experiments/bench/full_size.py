"""An SD1.5 checkpoint of full size with random weights: as fast and as large as a real one; its pictures are noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib_addift.experiments.world_checkpoint import save_checkpoint


def write_full_size(path: Path, seed: int = 0) -> None:
    """Write it: 2.1 GB. Needs 6 GB of memory."""
    generator = torch.Generator("cpu").manual_seed(seed)
    unet, vae, text = (_random_model(build, generator) for build in (_unet, _vae, _text_model))
    save_checkpoint(path, unet, vae, text, {})


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)  # the rest are diffusers' defaults


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )


def _text_model() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
        )
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
