"""A small LoRA of three layers with its metadata, and the header of its file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.lora.file import build_metadata

QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_mid_block_resnets_0_conv1"


def make_tensors(seed: int = 0, *, rank: int = 4, width: int = 768, alpha: float = 3.2) -> dict[str, torch.Tensor]:
    """A small LoRA of a self attention, a cross attention and a convolution."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {QUERY: ((rank, 320), (320, rank)), KEY: ((rank, width), (320, rank))}
    shapes[CONV] = ((rank, 64, 3, 3), (64, rank, 1, 1))  # type: ignore[assignment]
    tensors = {}
    for name, (down, up) in shapes.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(down, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(up, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def make_metadata(tensors: Mapping[str, torch.Tensor] | None = None, **settings: Any) -> dict[str, str]:
    return build_metadata(
        TrainConfig(**settings),
        learnt="The difference of two pictures, learnt with ADDifT",
        comment="ADDifT (Alternating Direct Difference Training)",
        name="eyes",
        model_title="tiny-world",
        model_hash="ab" * 32,
        prediction_type="epsilon",
        report={"round_trip": {"error": 0.25, "best_weight": 1}, "aligned": True, "losses": [0.5, 0.25]},
        tensors=tensors or make_tensors(),
        resolution=(512, 768),
    )


def split(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file, read as its specification says."""
    (length,) = struct.unpack("<Q", file[:8])
    assert length % 8 == 0
    return json.loads(file[8 : 8 + length]), file[8 + length :]
