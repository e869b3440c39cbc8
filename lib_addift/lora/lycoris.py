"""LyCORIS' kinds of LoRA: the element-wise product of two low-rank matrices (LoHa), and Kronecker products (LoKr)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lib_addift.lora.layers import DeltaLayer, apply_weight, conv_arguments, copied, frozen_weight, recomputed, uniform


class LohaLayer(DeltaLayer):
    """Two low-rank products, multiplied element-wise: (w1_a @ w1_b) * (w2_a @ w2_b) * alpha / rank.

    `factors` are w1_a (out, rank), w1_b (rank, in * k * k), w2_a and w2_b; all float32. The product may have any rank
    up to rank squared. Dropout drops channels of the output. Source: Hyeon-Woo et al. 2022 (FedPara), section 2.
    """

    def __init__(
        self, factors: Sequence[torch.Tensor], alpha: float, kernel: Sequence[int], conv: dict[str, Any] | None
    ) -> None:
        super().__init__(alpha, conv)
        self.hada_w1_a, self.hada_w1_b, self.hada_w2_a, self.hada_w2_b = map(_parameter, factors)
        self._kernel = tuple(kernel)

    @property
    def rank(self) -> int:
        return self.hada_w1_b.shape[0]

    @property
    def units(self) -> int:
        return self.hada_w1_a.shape[0]

    @classmethod
    def create(cls, layer: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> LohaLayer:
        """Zero w2_a, so that the initial change is zero.

        The other three are equally large, and w2_a's gradient is as large as lora_up's of a plain LoRA, whose down has
        a standard deviation of 1 / sqrt(3 in): one learning rate then suits both.
        """
        weight = frozen_weight(layer)
        outputs, inputs, *kernel = weight.shape
        columns = inputs * math.prod(kernel)
        spread = (3 * columns * rank) ** (-1 / 6)  # spread ** 3 * sqrt(rank) = 1 / sqrt(3 columns)
        shapes = ((outputs, rank), (rank, columns), (outputs, rank), (rank, columns))
        factors = [torch.randn(shape, generator=generator) * spread for shape in shapes]
        factors[2].zero_()
        return cls([factor.to(weight.device) for factor in factors], alpha, kernel, conv_arguments(layer))

    def forward(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        return self._drop(apply_weight(x, self.delta_weight().to(x.dtype), self.conv), kept)

    def delta_weight(self) -> torch.Tensor:
        delta = recomputed(_entrywise, self.hada_w1_a, self.hada_w1_b, self.hada_w2_a, self.hada_w2_b) * self.scale
        return delta.view(len(delta), -1, *self._kernel)

    def tensors(self, name: str, weight: float) -> dict[str, torch.Tensor]:
        """`weight` goes into w2_a: A1111 multiplies the two products in the file's dtype, where tiny values vanish."""
        return {
            f"{name}.hada_w1_a": copied(self.hada_w1_a),
            f"{name}.hada_w1_b": copied(self.hada_w1_b),
            f"{name}.hada_w2_a": copied(self.hada_w2_a) * weight,
            f"{name}.hada_w2_b": copied(self.hada_w2_b),
            f"{name}.alpha": torch.tensor(self.alpha),
        }

    def zero_init_parameters(self) -> list[nn.Parameter]:
        return [self.hada_w2_a]


class LokrLayer(DeltaLayer):
    """A Kronecker product of a small matrix and a larger one: kron(w1, w2) * alpha / rank.

    `w1` is (a, b). `w2` is either whole, (out / a, in / b) or (out / a, in / b, k, k), and then readers ignore alpha;
    or it is w2_a @ w2_b, (out / a, rank) and (rank, in / b * k * k). All float32. Dropout leaves out channels of the
    output. Source: Yeh et al. 2024 (LyCORIS), section 3, and its code for when w2 is whole.
    """

    def __init__(
        self,
        w1: torch.Tensor,
        w2: Sequence[torch.Tensor],
        alpha: float,
        kernel: Sequence[int],
        *,
        conv: dict[str, Any] | None,
    ) -> None:
        super().__init__(alpha, conv)
        self.lokr_w1 = _parameter(w1)
        self.is_whole = len(w2) == 1
        if self.is_whole:
            self.lokr_w2 = _parameter(w2[0].reshape(len(w2[0]), -1, *kernel))
        else:
            self.lokr_w2_a, self.lokr_w2_b = map(_parameter, w2)
        self._kernel = tuple(kernel)

    @property
    def rank(self) -> int:
        """For a whole w2: the highest rank of a matrix of its shape."""
        return min(self.lokr_w2.flatten(1).shape) if self.is_whole else self.lokr_w2_b.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.is_whole else self.alpha / self.rank

    @property
    def units(self) -> int:
        return len(self.lokr_w1) * len(self.lokr_w2 if self.is_whole else self.lokr_w2_a)

    @classmethod
    def create(
        cls, layer: nn.Module, rank: int, alpha: float, generator: torch.Generator, *, factor: int = -1
    ) -> LokrLayer:
        """Kaiming-uniform factors and a zero w2 or w2_b, for an initial change of zero; `factor` as in `split_size`."""
        weight = frozen_weight(layer)
        outputs, inputs, *kernel = weight.shape
        (a, rows), (b, columns) = split_size(outputs, factor), split_size(inputs, factor)
        w1 = uniform((a, b), generator)
        if rank < max(rows, columns) / 2:
            w2 = [uniform((rows, rank), generator), torch.zeros(rank, columns * math.prod(kernel))]
        else:
            w2, alpha = [torch.zeros(rows, columns, *kernel)], float(rank)  # as LyCORIS does: no scale
        return cls(
            w1.to(weight.device), [each.to(weight.device) for each in w2], alpha, kernel, conv=conv_arguments(layer)
        )

    def _second(self) -> torch.Tensor:
        """w2, (rows, columns) or (rows, columns, k, k)."""
        if self.is_whole:
            return self.lokr_w2
        return (self.lokr_w2_a @ self.lokr_w2_b).view(len(self.lokr_w2_a), -1, *self._kernel)

    def forward(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        # Channel i of the input is block i // columns, column i % columns: w2 acts in each block, w1 between them. The
        # dense matrix is never built.
        b, w2 = self.lokr_w1.shape[1], self._second().to(x.dtype)
        if self.conv is None:
            blocks = F.linear(x.unflatten(-1, (b, -1)), w2).float()  # (B, ..., b, rows)
            delta = (self.lokr_w1 @ blocks).flatten(-2)
        else:
            maps = F.conv2d(x.unflatten(1, (b, -1)).flatten(0, 1), w2, **self.conv).float()  # (B * b, rows, h, w)
            delta = self.lokr_w1 @ maps.reshape(len(x), b, -1)  # (B, a, rows * h * w)
            delta = delta.reshape(len(x), -1, *maps.shape[2:])
        return self._drop(delta * self.scale, kept)

    def delta_weight(self) -> torch.Tensor:
        second = self._second()
        first = self.lokr_w1.view(*self.lokr_w1.shape, *[1 for _ in self._kernel])
        return torch.kron(first, second.contiguous()) * self.scale

    def tensors(self, name: str, weight: float) -> dict[str, torch.Tensor]:
        """`weight` goes into w2 or w2_b: alpha has no effect on a whole w2."""
        result = {f"{name}.lokr_w1": copied(self.lokr_w1), f"{name}.alpha": torch.tensor(self.alpha)}
        if self.is_whole:
            return {**result, f"{name}.lokr_w2": copied(self.lokr_w2) * weight}
        return {
            **result,
            f"{name}.lokr_w2_a": copied(self.lokr_w2_a),
            f"{name}.lokr_w2_b": copied(self.lokr_w2_b) * weight,
        }

    def zero_init_parameters(self) -> list[nn.Parameter]:
        return [self.lokr_w2 if self.is_whole else self.lokr_w2_b]


def split_size(size: int, factor: int = -1) -> tuple[int, int]:
    """`size` as a product of two numbers, the smaller one first.

    -1: as close to each other as possible. Otherwise `factor` is one of them; where it does not divide `size`, the
    smaller number is the largest that does and is no larger than `factor`. LyCORIS splits in the same way.
    """
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    most = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    small = next(number for number in range(most, 0, -1) if size % number == 0)
    return small, size // small


def _entrywise(w1_a: torch.Tensor, w1_b: torch.Tensor, w2_a: torch.Tensor, w2_b: torch.Tensor) -> torch.Tensor:
    return (w1_a @ w1_b) * (w2_a @ w2_b)


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.float())
