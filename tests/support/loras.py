"""Small LoRAs for the tests: made from a seed, compared with whole matrices, written to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lib_addift.lora.arithmetic import TensorSource, Term
from tests.support.dense import dense, layers_of

LINEAR = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"  # IN04
CONV = "lora_unet_up_blocks_1_resnets_0_conv1"  # OUT03
POINT = "lora_unet_mid_block_attentions_0_proj_in"  # MID
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
SHAPES = {LINEAR: (24, 20), CONV: (12, 10, 3, 3), POINT: (16, 14, 1, 1), TEXT: (18, 18)}
Tensors = dict[str, torch.Tensor]


def make(
    seed: int, *, rank: int = 3, alpha: float | None = 2.0, layers: Mapping[str, tuple[int, ...]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensors:  # fmt: skip
    """A LoRA as kohya's trainer writes it; alpha None leaves it out."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outputs, inputs, *kernel) in (layers or SHAPES).items():
        down = torch.randn(rank, inputs, *kernel, generator=generator)
        up = torch.randn(outputs, rank, *[1 for _ in kernel], generator=generator)
        tensors |= {f"{name}.lora_down.weight": down.to(dtype), f"{name}.lora_up.weight": up.to(dtype)}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def same(found: Tensors, wanted: Callable[[str], np.ndarray], tolerance: float = 1e-6) -> None:
    """Each layer of `found` is the matrix `wanted`."""
    for layer in layers_of(found):
        matrix = wanted(layer)
        error = np.abs(dense(found, layer) - matrix).max() / np.abs(matrix).max()
        assert dense(found, layer).shape == matrix.shape
        assert error < tolerance, layer


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def term(tensors: Tensors, weight: float = 1.0) -> Term:
    return Term(TensorSource(tensors), lambda _layer: weight)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed))
