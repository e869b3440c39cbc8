"""One layer with a LoRA of any kind over it, and the same change of weight as a dense matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib_addift.lora.network import LoraNetwork

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"algorithm": "lora"},
    "dora": {"algorithm": "lora", "dora": True},
    "loha": {"algorithm": "loha"},
    "lokr": {"algorithm": "lokr", "rank": 1},
    "lokr whole": {"algorithm": "lokr", "rank": 16},
    "lokr by 2": {"algorithm": "lokr", "lokr_factor": 2, "rank": 2},
}
LAYERS = {
    "linear": lambda: nn.Linear(12, 10),
    "without bias": lambda: nn.Linear(6, 18, bias=False),
    "conv": lambda: nn.Conv2d(6, 10, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(4, 6, (3, 2), dilation=2),
    "1x1": lambda: nn.Conv2d(12, 6, 1),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_layer = pytest.mark.parametrize("layer", LAYERS)


def make_layer(layer: str) -> nn.Module:
    torch.manual_seed(5)
    return LAYERS[layer]().requires_grad_(False)


def make(kind: str, module: nn.Module, *, trained: bool = True, **settings: Any) -> LoraNetwork:
    """A LoRA of one layer, 'x'; `trained`: all its parameters are somewhere else than where they start."""
    network = LoraNetwork.create({"x": module}, **{"rank": 3, "alpha": 1.5, "seed": 0, **KINDS[kind], **settings})
    if trained:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return network


def make_input(module: nn.Module, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if isinstance(module, nn.Conv2d):
        return torch.randn(batch, module.in_channels, 8, 8, generator=generator)
    return torch.randn(batch, 5, module.in_features, generator=generator)


def through(module: nn.Module, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The layer's output with another weight."""
    bias = None if module.bias is None else module.bias.to(weight.dtype)
    if isinstance(module, nn.Conv2d):
        return F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation)
    return F.linear(x, weight, bias)


def dense(kind: str, p: dict[str, torch.Tensor], weight: torch.Tensor, alpha: float) -> torch.Tensor:
    """The change of weight as its definition says, from parameters by name."""
    if kind == "loha":
        delta = (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])
        return (delta * alpha / len(p["hada_w1_b"])).reshape(weight.shape)
    if kind.startswith("lokr"):
        w2 = p["lokr_w2"] if "lokr_w2" in p else p["lokr_w2_a"] @ p["lokr_w2_b"]
        scale = 1.0 if "lokr_w2" in p else alpha / len(p["lokr_w2_b"])
        return torch.kron(p["lokr_w1"], w2.flatten(1)).reshape(weight.shape) * scale
    low = (p["lora_up"].flatten(1) @ p["lora_down"].flatten(1)).reshape(weight.shape) * alpha / len(p["lora_down"])
    if kind == "lora":
        return low
    merged = weight + low
    norm = merged.square().sum(dim=[0, *range(2, weight.ndim)], keepdim=True).sqrt()
    return merged * p["dora_scale"] / norm - weight


def dropped(kind: str, module: nn.Module, seed: int | None, *, batch: int = 2, share: float = 0.5) -> torch.Tensor:
    """What the LoRA adds."""
    network, x = make(kind, module, dropout=share), make_input(module, batch)
    network.dropout_seed = seed
    with network.attach(), torch.no_grad():
        return module(x) - module_alone(module, x)


def module_alone(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return through(module, module.weight, x)
