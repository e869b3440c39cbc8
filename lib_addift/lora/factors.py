"""One layer of a LoRA file as two factors, whatever its kind.

LoHa and LoKr are made of low-rank matrices, so they have exact factors themselves: the element-wise product of two
low-rank matrices is the product of their row-wise and column-wise Kronecker products, and the Kronecker product of two
is the product of the Kronecker products of their factors. Sources: LoRA, Hu et al. 2021; LoHa, Hyeon-Woo et al. 2021;
LoKr and the Tucker forms, Yeh et al. 2023; the layout of the tensors is that of LyCORIS and kohya-ss/sd-scripts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lib_addift.errors import LoraFileError
from lib_addift.lora.soundness import check_layer
from lib_addift.lora.state_dict import Matrix, Parts, kind_of, matrices_of, scale_of

Pair = tuple[torch.Tensor, torch.Tensor]  # (out, rank) and (rank, in) or (rank, in, k, k)

# Files of LoHa and LoKr may have a convolution's kernel flattened; its size then follows from the layer's name.
_KERNELS = (
    (3, re.compile(r"_(conv1|conv2|(down|up)samplers_0_conv|conv_in|conv_out)$")),
    (3, re.compile(r"_(in_layers_2|out_layers_3|blocks_\d_0_op|blocks_\d_2_conv)$")),  # CompVis' names, of SDXL
    (1, re.compile(r"_(down|mid|up)_blocks?_.*_(proj_in|proj_out|conv_shortcut)$|_skip_connection$")),
)


@dataclass(frozen=True, eq=False)
class Factors:
    """A layer's change of weight: scale * up @ down. Float64.

    `up` is (out, rank); `down` is (rank, in) or (rank, in, k, k).
    """

    up: torch.Tensor
    down: torch.Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the layer's weight: (out, in) or (out, in, k, k)."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def full_rank(self) -> int:
        """The highest rank that a layer of this shape can have."""
        return min(self.up.shape[0], self.down[0].numel())


def read_factors(layer: str, parts: Parts) -> Factors:
    """The factors of a layer from its tensors, whose keys are what follows the layer's name ('lora_up.weight').

    Raises LoraFileError for what has no such factors (DoRA, other kinds), does not fit together or is not finite.
    """
    kind = kind_of(parts)
    if kind == "DoRA":
        raise LoraFileError(
            f"layer '{layer}' is a DoRA, whose effect depends on the checkpoint: use LoRAs without DoRA here."
        )
    if kind is None:
        known = ", ".join(filter(None, sorted(parts))) or "no such thing"
        raise LoraFileError(
            f"layer '{layer}' has the tensors {known}, which is no whole LoRA, LoHa or LoKr: use another file."
        )
    check_layer(layer, parts)
    doubles = {part: tensor.to("cpu", torch.float64) for part, tensor in parts.items()}
    for part, tensor in doubles.items():
        if not tensor.isfinite().all():
            raise LoraFileError(f"'{layer}.{part}' holds numbers that are not finite: the file is broken, get another.")
    try:
        up, down = _READERS[kind](layer, matrices_of(doubles))
        if up.shape[1] != len(down):
            raise ValueError
    except (RuntimeError, IndexError, ValueError):
        shapes = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in sorted(parts.items()))
        raise LoraFileError(f"layer '{layer}' does not fit together ({shapes}): get the file again.") from None
    return Factors(up, down, scale_of(parts))


def _lora(_layer: str, matrices: list[Matrix]) -> Pair:
    ((up, down),) = matrices
    return up.flatten(1), down


def _loha(layer: str, matrices: list[Matrix]) -> Pair:
    (up, down), (other_up, other_down) = matrices
    tail = down.shape[1:]
    down, other_down = down.flatten(1), other_down.flatten(1)
    if len(down) * len(other_down) < min(up.shape[0], down.shape[1]):
        new_up = (up[:, :, None] * other_up[:, None, :]).flatten(1)
        new_down = (down[:, None, :] * other_down[None, :, :]).flatten(0, 1)
    else:  # the layer's own matrix is smaller than such factors
        new_up, new_down = _as_pair((up @ down) * (other_up @ other_down))
    return new_up, _with_kernel(layer, new_down, tail)


def _lokr(layer: str, matrices: list[Matrix]) -> Pair:
    (left_up, left_down), (right_up, right_down) = map(_lokr_factors, matrices)
    kernel = right_down.shape[2:]
    down = torch.kron(left_down, right_down.flatten(1))  # (rank, in_1 * in_2 * k * k)
    tail = (down.shape[1] // kernel.numel(), *kernel) if kernel else (down.shape[1],)
    return torch.kron(left_up, right_up), _with_kernel(layer, down, tail)


def _lokr_factors(matrix: Matrix) -> Pair:
    if len(matrix) == 2:
        return matrix[0].contiguous(), matrix[1]
    up, down = _as_pair(matrix[0].flatten(1))
    return up, down.view(len(down), *matrix[0].shape[1:])


_READERS: dict[str, Callable[[str, list[Matrix]], Pair]] = {"LoRA": _lora, "LoHa": _loha, "LoKr": _lokr}


def _as_pair(matrix: torch.Tensor) -> Pair:
    """A matrix as factors, one of which is the identity."""
    rows, columns = matrix.shape
    if rows <= columns:
        return torch.eye(rows, dtype=matrix.dtype), matrix
    return matrix, torch.eye(columns, dtype=matrix.dtype)


def _with_kernel(layer: str, down: torch.Tensor, tail: tuple[int, ...]) -> torch.Tensor:
    """`down` (rank, columns) in its layer's shape: as its tensors say, or else as its name does."""
    if len(tail) > 1:
        return down.reshape(len(down), *tail)
    size = next((size for size, names in _KERNELS if names.search(layer)), 0)
    if size and down.shape[1] % size**2 == 0:
        return down.reshape(len(down), -1, size, size)
    return down
