"""DoRA: learns the direction and the norm of the weight's columns separately. Source: Liu et al. 2024, section 4."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lib_addift.lora.layers import LoraLayer, apply_weight, copied, frozen_weight, recomputed

_SMALLEST_SHARE = 2.0**-10  # see `DoraLayer.tensors`


class DoraLayer(LoraLayer):
    """The layer's weight becomes V * dora_scale / |V|, with V = W + lora_up @ lora_down * alpha / rank.

    W is the frozen weight and |V| has, for each input channel, the norm of what V does with it. `dora_scale` is
    (1, in) or (1, in, 1, 1), float32. This is the paper's form and the one that A1111 and Forge read
    (`apply_weight_decompose`, `weight_decompose`); a multiplier acts on the whole change, as there.

    Dropout drops units of the rank before the norm is computed, and therefore the same units in all samples.
    """

    def __init__(
        self,
        lora_down: torch.Tensor,
        lora_up: torch.Tensor,
        alpha: float,
        conv: dict[str, Any] | None,
        *,
        dora_scale: torch.Tensor,
        layer: nn.Module,
    ) -> None:
        super().__init__(lora_down, lora_up, alpha, conv)
        self.dora_scale = nn.Parameter(dora_scale.float())
        self._target = (layer,)  # in a tuple, or nn.Module would register it as a submodule

    @classmethod
    def create(cls, layer: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> DoraLayer:
        """A plain LoRA's initial factors and the norms of the frozen weight: the initial change is zero."""
        lora = LoraLayer.create(layer, rank, alpha, generator)
        norms = column_norms(frozen_weight(layer), lora.lora_down.detach(), lora.lora_up.detach().flatten(1))
        dora_scale = norms.view(1, -1, *[1] * (lora.lora_down.ndim - 2))
        return cls(lora.lora_down, lora.lora_up, alpha, lora.conv, dora_scale=dora_scale, layer=layer)

    def kept_shape(self, samples: int) -> tuple[int, int]:
        return 1, self.units

    def forward(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        # With s = dora_scale / |V|, one number for each input channel, V s x - W x = W (s - 1) x + up down s x: neither
        # V nor its change is built, and small changes are not lost to cancellation.
        weight = frozen_weight(self._target[0]).to(x.device)
        up = self.lora_up.flatten(1) * self.scale
        stretch = self.dora_scale.flatten() / recomputed(
            column_norms, weight, self.lora_down, up if kept is None else up * kept
        )
        stretch = stretch if self.conv is None else stretch.view(-1, 1, 1)
        stretched = _through(weight, x * (stretch - 1).to(x.dtype), self.conv)
        return stretched.float() + super().forward(x * stretch.to(x.dtype), kept)

    def delta_weight(self) -> torch.Tensor:
        weight = frozen_weight(self._target[0]).to(self.lora_up.device, torch.float32)
        merged = weight + super().delta_weight()
        norms = column_norms(weight, self.lora_down, self.lora_up.flatten(1) * self.scale)
        return merged * (self.dora_scale / norms.view_as(self.dora_scale)) - weight

    def tensors(self, name: str, weight: float) -> dict[str, torch.Tensor]:
        """`weight` goes into the columns of lora_down and into dora_scale; exact, except as follows.

        Column j of the weight is s_j V_j = s_j W_j + s_j L_j, where L is the low-rank part. w times its change is
        c_j W_j + w s_j L_j - W_j with c_j = 1 + w (s_j - 1). That is again a DoRA: its low-rank part is L_j w s_j / c_j
        and its dora_scale c_j |W_j + L_j w s_j / c_j|. At c_j = 0 there is none, so |c_j| is clamped to at least
        1/1024: the column is then wrong by less than W_j / 1024. Trained s_j are close to 1, so that only weights of
        dozens get there.
        """
        result = super().tensors(name, 1.0)
        scale_key, down_key = f"{name}.dora_scale", f"{name}.lora_down.weight"
        if weight == 1:
            return {**result, scale_key: copied(self.dora_scale)}
        frozen = frozen_weight(self._target[0]).cpu().double()
        down, dora_scale = self.lora_down.detach().cpu().double(), self.dora_scale.detach().cpu().double()
        up = self.lora_up.detach().cpu().double().flatten(1) * self.scale
        stretch = dora_scale / column_norms(frozen, down, up).view_as(dora_scale)
        share = 1 + weight * (stretch - 1)
        share = torch.copysign(share.abs().clamp(min=_SMALLEST_SHARE), share)
        down = down * (weight * stretch / share)
        result[down_key] = down.float()
        result[scale_key] = (share * column_norms(frozen, down, up).view_as(dora_scale)).float()
        return result


def _through(weight: torch.Tensor, x: torch.Tensor, conv: dict[str, Any] | None) -> torch.Tensor:
    """`x` through the frozen weight in x's dtype. Where the weight has another, autograd keeps no copy of it."""

    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return apply_weight(x, weight.to(x.dtype), conv)

    return product(x, weight) if weight.dtype == x.dtype else recomputed(product, x, weight)


def column_norms(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The norms of weight + up @ down over all but the input channels, (in,), without building the sum.

    `weight` is (out, in) or (out, in, k, k), `down` (rank, in) or (rank, in, k, k), `up` (out, rank). In up's dtype.
    """
    outputs, inputs = weight.shape[:2]
    frozen = weight.to(up.dtype).reshape(outputs, -1)  # (out, in * k * k)
    low = down.reshape(len(down), -1)  # (rank, in * k * k)
    # |W + UD|^2 - |W|^2 = 2 <W, UD> + |UD|^2 = <D, 2 U'W + U'UD>
    change = low * (2 * (up.T @ frozen) + (up.T @ up) @ low)
    squares = frozen.square().view(outputs, inputs, -1).sum((0, 2)) + change.view(len(down), inputs, -1).sum((0, 2))
    return squares.clamp(min=torch.finfo(up.dtype).tiny).sqrt()
