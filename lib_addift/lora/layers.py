"""The change that a LoRA makes to one frozen layer: the interface of all kinds, and the plain low-rank pair.

The layer is linear, with a weight (out, in), or a convolution, with (out, in, k, k). Every kind computes what is added
to the layer's output, the tensors of its file and its change of the weight as a dense tensor.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class DeltaLayer(nn.Module, ABC):
    """A change of one layer's weight, with parameters in float32.

    `conv` has stride, padding and dilation of a convolution, and is None for a linear layer.
    """

    def __init__(self, alpha: float, conv: dict[str, Any] | None) -> None:
        super().__init__()
        self.alpha = alpha
        self.conv = conv

    @property
    @abstractmethod
    def rank(self) -> int:
        """The inner dimension of its factors."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    @abstractmethod
    def units(self) -> int:
        """The number of units that dropout chooses from."""

    @abstractmethod
    def forward(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to the output for the input (B, ..., in) or (B, in, h, w).

        `kept` (B, units) is what each unit is multiplied with in each sample; None leaves all as they are.
        """

    @abstractmethod
    def delta_weight(self) -> torch.Tensor:
        """The change of the weight as one dense tensor of the weight's shape, float32."""

    @abstractmethod
    def tensors(self, name: str, weight: float) -> dict[str, torch.Tensor]:
        """Copies on the CPU as a file has them, rescaled so that weight 1 acts as `weight` did; alpha is positive."""

    @abstractmethod
    def zero_init_parameters(self) -> list[nn.Parameter]:
        """The parameters that are initialised with zeros."""

    def kept_shape(self, samples: int) -> tuple[int, int]:
        """The shape of `kept` for so many samples."""
        return samples, self.units

    def _drop(self, values: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """Multiply `values`, whose channels are the units, by `kept`."""
        if kept is None:
            return values
        shape = [len(kept), *[1] * (values.ndim - 1)]
        shape[-1 if self.conv is None else 1] = kept.shape[1]
        return values * kept.view(shape)


class LoraLayer(DeltaLayer):
    """One low-rank pair: x -> lora_up(lora_down(x)) * alpha / rank. Source: Hu et al. 2021, section 4.1.

    `lora_down` is (rank, in) or (rank, in, k, k), `lora_up` (out, rank) or (out, rank, 1, 1); both float32. Dropout
    drops units of the rank.
    """

    def __init__(
        self, lora_down: torch.Tensor, lora_up: torch.Tensor, alpha: float, conv: dict[str, Any] | None
    ) -> None:
        super().__init__(alpha, conv)
        self.lora_down = nn.Parameter(lora_down.float())
        self.lora_up = nn.Parameter(lora_up.float())

    @property
    def rank(self) -> int:
        return self.lora_down.shape[0]

    @property
    def units(self) -> int:
        return self.rank

    @classmethod
    def create(cls, layer: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> LoraLayer:
        """Kaiming-uniform down and zero up, so that the initial change is zero."""
        weight = frozen_weight(layer)
        outputs, inputs, *kernel = weight.shape
        lora_down = uniform((rank, inputs, *kernel), generator)
        lora_up = torch.zeros(outputs, rank, *[1 for _ in kernel])
        return cls(lora_down.to(weight.device), lora_up.to(weight.device), alpha, conv_arguments(layer))

    def forward(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        # The wide product runs in the model's dtype (it is what autograd keeps); the narrow one in float32, where
        # small updates of lora_up are not rounded away.
        low = apply_weight(x, self.lora_down.to(x.dtype), self.conv).float()
        low = self._drop(low, kept)
        delta = F.linear(low, self.lora_up) if self.conv is None else F.conv2d(low, self.lora_up)
        return delta * self.scale

    def delta_weight(self) -> torch.Tensor:
        delta = self.lora_up.flatten(1) @ self.lora_down.flatten(1) * self.scale
        return delta.view(len(self.lora_up), *self.lora_down.shape[1:])

    def tensors(self, name: str, weight: float) -> dict[str, torch.Tensor]:
        """The absolute value of `weight` goes into alpha, its sign into lora_up."""
        return {
            f"{name}.lora_down.weight": copied(self.lora_down),
            f"{name}.lora_up.weight": copied(self.lora_up) * math.copysign(1.0, weight),
            f"{name}.alpha": torch.tensor(self.alpha * abs(weight)),
        }

    def zero_init_parameters(self) -> list[nn.Parameter]:
        return [self.lora_up]


def frozen_weight(layer: nn.Module) -> torch.Tensor:
    """(out, in) or (out, in, k, k): a layer's first parameter, of whatever class of a host the layer is."""
    return next(layer.parameters()).detach()


def conv_arguments(layer: nn.Module) -> dict[str, Any] | None:
    if not hasattr(layer, "kernel_size"):
        return None
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}


def apply_weight(x: torch.Tensor, weight: torch.Tensor, conv: dict[str, Any] | None) -> torch.Tensor:
    return F.linear(x, weight) if conv is None else F.conv2d(x, weight, **conv)


def uniform(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Kaiming-uniform with a = sqrt(5), as torch.nn.Linear starts: from -1 / sqrt(inputs) to 1 / sqrt(inputs)."""
    values = torch.empty(*shape)
    bound = 1 / math.sqrt(values[0].numel())
    return values.uniform_(-bound, bound, generator=generator)


def copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone()


def recomputed(function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> torch.Tensor:
    """function(*arguments) with activation checkpointing: autograd saves the arguments and recomputes the rest.

    Dense matrices of all layers at once would need more memory than the model.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    from torch.utils.checkpoint import checkpoint  # not at the WebUI's start: in torch 2.3 it takes half a second

    result: torch.Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result
