"""A LoRA that adds one learnt value, the same for every token, to what cross-attention reads from the prompt.

Attention weights sum to 1, so the value reaches every pixel of a layer alike, as if the prompt said something more. It
knows no place in the picture, which is why one pair teaches it something that holds on new pictures.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from lib_addift.lora.layers import LoraLayer, frozen_weight

_VALUES = re.compile(r"_attn2_to_v$")
_RIDGES = tuple(10.0**-power for power in range(9, 0, -1))  # shares of the tokens' mean square


def is_shiftable(lora_name: str) -> bool:
    """Whether a layer makes the values of a cross-attention."""
    return bool(_VALUES.search(lora_name))


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
        """An untrained one for a linear layer (out, in). `tokens` (N, in) are conditions; `direction` is theirs."""
        weight = frozen_weight(layer)
        size = (tokens.to(weight) @ weight.T).float().square().mean().sqrt().clamp(min=1e-6)
        down = (direction.to(weight.device) * size)[None]
        return cls(down, torch.zeros(len(weight), 1, device=weight.device), 1.0)


@torch.no_grad()
def constant_direction(tokens: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The vector (width,) whose product with every token is as near to 1 as can be; float32.

    It is fitted to `tokens` (N, width) by ridge regression, with the penalty that fits `others` (M, width) best. In
    CLIP an exact one exists: what the last layer norm gives, divided by the norm's weight, has the same sum for every
    token (Ba et al. 2016, eq. 4).
    """
    fitted, checked = tokens.double().cpu(), others.double().cpu()
    gram = fitted.T @ fitted / len(fitted)
    mean, unit = fitted.mean(dim=0), gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    found = [torch.linalg.solve(gram + ridge * unit, mean) for ridge in _RIDGES]
    best: torch.Tensor = min(found, key=lambda vector: float((checked @ vector - 1).square().mean()))
    return best.float()
