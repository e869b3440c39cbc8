"""LoRA layers over a frozen model, joined to it by forward hooks: nothing of the model is replaced or overwritten."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
        self.conv = conv  # stride, padding and dilation of a convolution; None for a linear layer

    @property
    def rank(self) -> int:
        return self.lora_down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

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
        if self.conv is None:
            delta = F.linear(F.linear(x, lora_down).float(), self.lora_up)
        else:
            delta = F.conv2d(F.conv2d(x, lora_down, **self.conv).float(), self.lora_up)
        return delta * self.scale


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
        self.targets = dict(modules)
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
        with _hooks(self.targets, self._delta):
            yield self

    def _delta(self, name: str, x: torch.Tensor) -> torch.Tensor:
        delta: torch.Tensor = self.layers[name](x)
        multiplier = self.multiplier
        if isinstance(multiplier, torch.Tensor):
            multiplier = multiplier.to(delta.device).view(-1, *[1] * (delta.ndim - 1))
        return delta * multiplier

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


class LoraStack:
    """Several LoRAs over the same layers, of one rank, in one pass: each sample of the batch goes through its own.

    `multiplier` is a tensor (B,), and `owners` (B,) has for each sample the index of its LoRA.
    """

    def __init__(self, networks: Sequence[LoraNetwork]) -> None:
        self._networks = list(networks)
        self._scales = {
            name: torch.tensor([network.layers[name].scale for network in networks], device=layer.lora_up.device)
            for name, layer in networks[0].layers.items()
        }
        self.multiplier = torch.empty(0)
        self.owners = torch.empty(0, dtype=torch.long)

    @contextmanager
    def attach(self) -> Iterator[LoraStack]:
        """Let the LoRAs act inside the block; afterwards the modules' hooks are as before, whatever happened."""
        with _hooks(self._networks[0].targets, self._delta):
            yield self

    def _delta(self, name: str, x: torch.Tensor) -> torch.Tensor:
        layers = [network.layers[name] for network in self._networks]
        owners = self.owners.to(x.device)
        down = torch.stack([layer.lora_down for layer in layers])[owners]  # (B, rank, in, ...)
        up = torch.stack([layer.lora_up for layer in layers])[owners]  # (B, out, rank, ...)
        delta = _each_through_its_own(x, down.to(x.dtype), up, layers[0].conv)
        return delta * (self._scales[name][owners] * self.multiplier.to(x.device)).view(-1, *[1] * (delta.ndim - 1))


def _each_through_its_own(
    x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, conv: dict[str, Any] | None
) -> torch.Tensor:
    """Sample b of `x` through down[b] and up[b], in the dtypes of LoraLayer.forward."""
    if conv is None:
        rows = x.reshape(len(x), -1, x.shape[-1])  # (B, tokens, in)
        low = torch.bmm(rows, down.mT).float()
        return torch.bmm(low, up.mT).view(*x.shape[:-1], -1)
    # A grouped convolution: the samples' channels side by side, each group with its own kernels.
    low = F.conv2d(x.reshape(1, -1, *x.shape[2:]), down.flatten(0, 1), groups=len(x), **conv).float()
    size = low.shape[2:]
    return torch.bmm(up.flatten(2), low.view(len(x), -1, size.numel())).view(len(x), -1, *size)


@contextmanager
def _hooks(targets: Mapping[str, nn.Module], delta: Callable[[str, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Add `delta(name, input)` to the output of each target inside the block."""

    def hook(name: str) -> Callable[..., torch.Tensor]:
        def add_delta(_module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            with torch.autocast(output.device.type, enabled=False):
                return output + delta(name, args[0]).to(output.dtype)

        return add_delta

    handles = []
    try:
        for name, module in targets.items():
            handles.append(module.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
