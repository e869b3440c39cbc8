"""LoRA layers over a frozen model, joined to it by forward hooks: nothing of the model is replaced or overwritten."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lib_addift.errors import LoraFileError

_KINDS = {
    "self_attention": re.compile(r"_attn1_to_"),
    "cross_attention": re.compile(r"_attn2_to_"),
    "feed_forward": re.compile(r"_ff_net_"),
    "projections": re.compile(r"_proj_(in|out)$"),
    "convolutions": re.compile(r"_(resnets_\d_(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers_0_conv)$"),
}
_BLOCKS = {"IN": "lora_unet_down_blocks", "MID": "lora_unet_mid_block", "OUT": "lora_unet_up_blocks"}


def layer_kind(lora_name: str) -> str | None:
    """The kind (config.LAYER_KINDS) of a layer, or None when LoRA files have no place for it."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(lora_name)), None)


def select_layers(
    unet: nn.Module, lora_name: Callable[[str], str], *, layers: Collection[str], blocks: Collection[str]
) -> dict[str, nn.Module]:
    """The UNet's layers that learn, by LoRA name, in the UNet's own order.

    Linear layers are known by `in_features` and convolutions by `kernel_size`: a host may bring its own classes.
    """
    prefixes = tuple(_BLOCKS[block] for block in blocks)
    chosen = {}
    for module_name, module in unet.named_modules():
        if hasattr(module, "in_features") or hasattr(module, "kernel_size"):
            name = lora_name(module_name)
            if layer_kind(name) in layers and name.startswith(prefixes):
                chosen[name] = module
    return chosen


class LoraLayer(nn.Module):
    """One low-rank pair: x -> lora_up(lora_down(x)) * alpha / rank. Source: Hu et al. 2021, section 4.1.

    `lora_down` is (rank, in) or (rank, in, k, k), `lora_up` (out, rank) or (out, rank, 1, 1); both float32.
    """

    def __init__(
        self, lora_down: torch.Tensor, lora_up: torch.Tensor, alpha: float, conv: dict[str, Any] | None
    ) -> None:
        super().__init__()
        self.lora_down = nn.Parameter(lora_down.float())
        self.lora_up = nn.Parameter(lora_up.float())
        self.alpha = alpha
        self._conv = conv  # stride, padding and dilation of a convolution; None for a linear layer

    @property
    def rank(self) -> int:
        return self.lora_down.shape[0]

    @classmethod
    def create(cls, layer: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> LoraLayer:
        """Kaiming-uniform down and zero up, so that the LoRA starts as nothing."""
        weight = next(layer.parameters())  # (out, in) or (out, in, k, k)
        outputs, inputs, *kernel = weight.shape
        lora_down = torch.empty(rank, inputs, *kernel)
        bound = 1 / math.sqrt(lora_down[0].numel())
        lora_down.uniform_(-bound, bound, generator=generator)
        lora_up = torch.zeros(outputs, rank, *[1 for _ in kernel])
        return cls(lora_down.to(weight.device), lora_up.to(weight.device), alpha, _conv_arguments(layer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The wide product runs in the model's dtype (it is what autograd keeps); the narrow one in float32, where
        # small updates of lora_up are not rounded away.
        lora_down = self.lora_down.to(x.dtype)
        if self._conv is None:
            delta = F.linear(F.linear(x, lora_down).float(), self.lora_up)
        else:
            delta = F.conv2d(F.conv2d(x, lora_down, **self._conv).float(), self.lora_up)
        return delta * (self.alpha / self.rank)


def _conv_arguments(layer: nn.Module) -> dict[str, Any] | None:
    if not hasattr(layer, "kernel_size"):
        return None
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}


class LoraNetwork(nn.Module):
    """The LoRA layers of one LoRA, by name, and the multiplier at which they act.

    `multiplier` is a number, or a tensor (B,) with one number per sample of the batch.
    """

    def __init__(self, layers: Mapping[str, LoraLayer], modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = dict(layers)
        self._registered = nn.ModuleDict(layers)  # makes the layers' parameters the network's
        self._targets = dict(modules)
        self.multiplier: float | torch.Tensor = 1.0

    @classmethod
    def create(cls, modules: Mapping[str, nn.Module], *, rank: int, alpha: float, seed: int) -> LoraNetwork:
        """A fresh LoRA over `modules` (see `select_layers`); the same seed gives the same weights on every device."""
        generator = torch.Generator("cpu").manual_seed(seed)
        return cls({name: LoraLayer.create(m, rank, alpha, generator) for name, m in modules.items()}, modules)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], unet: nn.Module, lora_name: Callable[[str], str]
    ) -> LoraNetwork:
        """A LoRA from a file's tensors (kohya keys). Raises LoraFileError when the model has no such layer."""
        modules = {lora_name(name): module for name, module in unet.named_modules()}
        layers = {}
        for name in dict.fromkeys(key.split(".")[0] for key in tensors):
            if name not in modules:
                raise LoraFileError(
                    f"the LoRA has a layer '{name}' that this model does not have: it is for another model."
                )
            layer = modules[name]
            down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
            weight = next(layer.parameters(), torch.empty(0))  # (out, in) or (out, in, k, k)
            if (up.shape[0], *down.shape[1:]) != weight.shape:
                raise LoraFileError(f"layer '{name}' of the LoRA does not fit this model's: it is for another model.")
            alpha = float(tensors.get(f"{name}.alpha", torch.tensor(down.shape[0])))
            layers[name] = LoraLayer(down.to(weight.device), up.to(weight.device), alpha, _conv_arguments(layer))
        return cls(layers, {name: modules[name] for name in layers})

    @contextmanager
    def attach(self) -> Iterator[LoraNetwork]:
        """Let the LoRA act on its modules inside the block; afterwards their hooks are as before, whatever happened."""
        handles = []
        try:
            for name, module in self._targets.items():
                handles.append(module.register_forward_hook(self._hook(self.layers[name])))
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: LoraLayer) -> Callable[..., torch.Tensor]:
        def add_delta(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            multiplier = self.multiplier
            if isinstance(multiplier, torch.Tensor):
                multiplier = multiplier.to(output.device).view(-1, *[1] * (output.ndim - 1))
            with torch.autocast(output.device.type, enabled=False):
                delta: torch.Tensor = layer(args[0]) * multiplier
                return output + delta.to(output.dtype)

        return add_delta

    @torch.no_grad()
    def tensors(self, weight: float = 1.0) -> dict[str, torch.Tensor]:
        """Copies of all tensors with kohya keys, on the CPU, rescaled so that weight 1 acts as `weight` did.

        The size of `weight` goes into alpha and its sign into lora_up, so that alpha stays positive.
        """
        result = {}
        for name, layer in self.layers.items():
            result[f"{name}.lora_down.weight"] = layer.lora_down.detach().cpu().clone()
            result[f"{name}.lora_up.weight"] = layer.lora_up.detach().cpu() * math.copysign(1.0, weight)
            result[f"{name}.alpha"] = torch.tensor(layer.alpha * abs(weight))
        return result
