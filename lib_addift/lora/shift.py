"""A LoRA that adds one learnt value, the same for every token, to the values of an attention.

Attention weights sum to 1, so the value reaches every pixel of a layer alike, as if the prompt said something more. It
knows no place in the picture, which is why one pair teaches it something that holds on new pictures.

A plain LoRA can add it where some vector has the same product with every token. Behind a layer norm there is an exact
one (Ba et al. 2016, eq. 4): its outputs, divided by its weight, have the same sum. SD1.5's text model ends in one;
SDXL's states come from before it, and whether such a vector exists is measured. If not, the values are shifted that
self-attention reads, which follows a layer norm in every transformer block.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from lib_addift.lora.layers import LoraLayer, frozen_weight

_VALUES = {True: re.compile(r"_attn2_to_v$"), False: re.compile(r"_attn1_to_v$")}  # by is_shiftable's `of_words`
_CONSTANT = 0.1  # root mean square error of products with other tokens, up to which a vector is the same for all
_NORMED = 256  # random outputs of a norm, to see how large a layer's values are
_RIDGES = tuple(10.0**-power for power in range(9, 0, -1))  # shares of the tokens' mean square


def is_shiftable(lora_name: str, *, of_words: bool) -> bool:
    """Whether a layer makes the values of a cross-attention, or else those of a self-attention."""
    return bool(_VALUES[of_words].search(lora_name))


class ShiftLayer(LoraLayer):
    """A low-rank pair of rank 1 whose `lora_down` gives about the same for every token and does not learn.

    Then `lora_up`, which does, is the value that is added, in units of the root mean square of the layer's values.
    """

    def __init__(self, lora_down: torch.Tensor, lora_up: torch.Tensor, alpha: float) -> None:
        super().__init__(lora_down, lora_up, alpha, None)
        del self.lora_down
        self.register_buffer("lora_down", lora_down.float())

    @classmethod
    def over(cls, layer: nn.Module, tokens: torch.Tensor, direction: torch.Tensor) -> ShiftLayer:
        """An untrained one for a linear layer (out, in). `tokens` (N, in) is what it reads; `direction` is theirs."""
        weight = frozen_weight(layer)
        size = (tokens.to(weight) @ weight.T).float().square().mean().sqrt().clamp(min=1e-6)
        down = (direction.to(weight.device) * size)[None]
        return cls(down, torch.zeros(len(weight), 1, device=weight.device), 1.0)


@torch.no_grad()
def constant_direction(tokens: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The vector (width,) whose product with every token is as near to 1 as can be; float32.

    It is fitted to `tokens` (N, width) by ridge regression, with the penalty that fits `others` (M, width) best.
    """
    fitted, checked = tokens.double().cpu(), others.double().cpu()
    gram = fitted.T @ fitted / len(fitted)
    mean, unit = fitted.mean(dim=0), gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    found = [torch.linalg.solve(gram + ridge * unit, mean) for ridge in _RIDGES]
    best: torch.Tensor = min(found, key=lambda vector: float((checked @ vector - 1).square().mean()))
    return best.float()


@torch.no_grad()
def is_constant(direction: torch.Tensor, tokens: torch.Tensor) -> bool:
    """Whether a direction has about the same product, 1, with all of `tokens` (N, width)."""
    products = tokens.double().cpu() @ direction.double().cpu()
    return float((products - 1).square().mean().sqrt()) <= _CONSTANT


@torch.no_grad()
def outputs_of_norm(norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer norm gives for random inputs, (N, width), and the vector whose product with all of these is 1.

    The vector is the minimum of its mean squared error, in closed form: inputs have the mean 0 and the length 1 over
    the channels. The smallest penalty keeps channels out whose weight is next to nothing.
    """
    weight, bias = norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu()
    width = len(weight)
    noise = torch.randn(_NORMED, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = weight.square().diag() - weight.outer(weight) / width + bias.outer(bias)
    ridge = _RIDGES[0] * gram.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    outputs = torch.nn.functional.layer_norm(noise, (width,), weight, bias)
    return outputs.float(), torch.linalg.solve(gram + ridge, bias).float()
