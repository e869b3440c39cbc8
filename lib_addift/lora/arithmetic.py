"""Sums of LoRAs and their best approximations of a lower rank, layer by layer.

A sum of low-rank layers is the layer with their factors concatenated: exact, and without a matrix of the layer's own
size. Truncation takes QR of both factors and the singular values of the small matrix between them, which are
those of the layer itself (Golub & Van Loan, Matrix Computations, section 8.6). All of it in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.lora.factors import Factors, read_factors
from lib_addift.lora.state_dict import ALPHA, DOWN, UP, Parts, by_layer

Report = Callable[[str, int, int], None]  # called with what is counted, how many are done, and of how many
HIGHEST_RANK = 4096
_NOTHING = 1e-10  # singular values below this share of the largest are rounding errors


@dataclass(frozen=True)
class RankLimit:
    """How much of each layer is kept: at most `rank` (0 = no limit), and at least this share of its `energy`.

    Energy is the sum of the squared singular values. Where both are given, the lower rank counts. Raises ConfigError.
    """

    rank: int = 0
    energy: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 0 <= self.rank <= HIGHEST_RANK:
            raise ConfigError(f"rank = {self.rank} must be a whole number from 1 to {HIGHEST_RANK}, or 0 for no limit.")
        if not 0 < self.energy <= 1:
            raise ConfigError(f"energy = {self.energy} must be a share above 0 and up to 1, such as 0.95.")

    @property
    def is_limit(self) -> bool:
        return self.rank > 0 or self.energy < 1

    def rank_for(self, energies: torch.Tensor, total: float) -> int:
        """How many of the squared singular values, the largest first, are to be kept."""
        count = int((energies > _NOTHING**2 * energies[:1]).sum()) if total > 0 else 0
        if self.energy < 1:
            enough = torch.cumsum(energies, 0) >= self.energy * total
            count = min(count, int(enough.int().argmax()) + 1 if enough.any() else count)
        return min(count, self.rank) if self.rank else count


NO_LIMIT = RankLimit()


@dataclass(frozen=True, eq=False)
class Truncated:
    """A truncated layer (None when it was zero), its energy and that before truncation."""

    layer: Factors | None
    energy: float
    total: float


@dataclass(frozen=True, eq=False)
class NewLora:
    """A new LoRA (kohya keys, float32), the rank of each layer, and the share of the energy that was kept."""

    tensors: dict[str, torch.Tensor]
    ranks: dict[str, int]
    kept: float = 1.0


class NewLoraBuilder:
    """Collects the layers of a new LoRA."""

    def __init__(self) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        self._ranks: dict[str, int] = {}
        self._kept = self._total = 0.0

    def add(self, name: str, result: Truncated) -> None:
        """Add a truncated layer; one that is None is left out."""
        self._kept, self._total = self._kept + result.energy, self._total + result.total
        if result.layer is not None:
            self._tensors |= layer_tensors(name, result.layer)
            self._ranks[name] = result.layer.rank

    @property
    def is_empty(self) -> bool:
        return not self._tensors

    def build(self) -> NewLora:
        return NewLora(self._tensors, self._ranks, self._kept / self._total if self._total else 1.0)


class LoraSource(Protocol):
    """A LoRA from which layers can be read one at a time."""

    @property
    def title(self) -> str:
        """Its name in messages."""
        ...

    @property
    def layers(self) -> Sequence[str]: ...

    def tensors(self, layer: str) -> dict[str, torch.Tensor]:
        """The layer's tensors by what follows its name, such as 'lora_up.weight'."""
        ...


class TensorSource:
    """A LoRA in memory."""

    def __init__(self, tensors: Parts, title: str = "the LoRA") -> None:
        self.title = title
        self._keys = by_layer(tensors)
        self._tensors = tensors

    @property
    def layers(self) -> Sequence[str]:
        return list(self._keys)

    def tensors(self, layer: str) -> dict[str, torch.Tensor]:
        return {part: self._tensors[key] for part, key in self._keys[layer].items()}


@dataclass(frozen=True, eq=False)
class Term:
    """One LoRA of a sum, with the weight of each of its layers."""

    source: LoraSource
    weight: Callable[[str], float]


@torch.no_grad()
def sum_loras(terms: Sequence[Term], limit: RankLimit, report: Report | None = None) -> NewLora:
    """The weighted sum of LoRAs; a layer that one of them lacks counts as zero there. One layer is in memory at a time.

    Raises LoraFileError when layers cannot be read or added, or when nothing is left.
    """
    names = sorted({layer for term in terms for layer in term.source.layers})
    builder = NewLoraBuilder()
    for number, name in enumerate(names, 1):
        layer = _sum(name, terms)
        if layer is not None:
            is_cut = limit.is_limit or layer.rank > layer.full_rank
            builder.add(name, truncate(layer, limit) if is_cut else Truncated(layer, 0, 0))
        if report is not None:
            report("layer", number, len(names))
    if builder.is_empty:
        raise LoraFileError("nothing is left of it, for every layer is zero: use other weights or other files.")
    return builder.build()


def resize(tensors: Parts, rank: int = 0, energy: float = 1.0) -> dict[str, torch.Tensor]:
    """A LoRA (kohya keys) with the best approximation of each layer in `rank`, or in so much of its energy."""
    return sum_loras([Term(TensorSource(tensors), lambda _layer: 1.0)], RankLimit(rank, energy)).tensors


def _sum(name: str, terms: Sequence[Term]) -> Factors | None:
    """The weighted sum of one layer; None where no LoRA has it at a weight other than 0."""
    parts, titles = [], []
    for term in terms:
        weight = term.weight(name) if name in term.source.layers else 0.0
        if weight == 0:
            continue
        try:
            layer = read_factors(name, term.source.tensors(name))
        except LoraFileError as error:
            raise LoraFileError(f"'{term.source.title}': {error}") from None
        scale = layer.scale * weight
        if not math.isfinite(scale):
            raise LoraFileError(f"'{term.source.title}': layer '{name}' has an alpha that is not finite: get it again.")
        parts.append(Factors(layer.up, layer.down, scale))
        titles.append(term.source.title)
    for part, title in zip(parts, titles, strict=True):
        _check_same_layer(name, (titles[0], parts[0]), (title, part))
    return weighted_sum([part for part in parts if part.scale])


def _check_same_layer(name: str, one: tuple[str, Factors], other: tuple[str, Factors]) -> None:
    shapes = [layer.shape for _, layer in (one, other)]
    if shapes[0][0] != shapes[1][0] or math.prod(shapes[0]) != math.prod(shapes[1]):
        raise LoraFileError(
            f"layer '{name}' is {shapes[0]} in '{one[0]}' and {shapes[1]} in '{other[0]}': they are for different "
            "models, which cannot be added; choose LoRAs of one kind of model."
        )


def weighted_sum(parts: Sequence[Factors]) -> Factors | None:
    """The sum of layers of one shape, exactly, as their factors side by side; ranks add. None for no parts."""
    if not parts:
        return None
    scale = max(parts, key=lambda part: abs(part.scale)).scale
    tail = max((part.down.shape[1:] for part in parts), key=len)  # a 1x1 convolution may be stored as a matrix
    up = torch.cat([part.up * (part.scale / scale) for part in parts], dim=1)
    return Factors(up, torch.cat([part.down.reshape(-1, *tail) for part in parts]), scale)


def truncate(layer: Factors, limit: RankLimit) -> Truncated:
    """The best approximation of a layer within the limit (Eckart & Young 1936)."""
    up, up_rest = torch.linalg.qr(layer.up)  # (out, a), (a, rank)
    down, down_rest = torch.linalg.qr(layer.down.flatten(1).T)  # (columns, b), (b, rank)
    left, values, right = torch.linalg.svd(up_rest @ down_rest.T, full_matrices=False)
    return _keep(limit, layer.down.shape[1:], (up @ left, values * abs(layer.scale), right @ down.T), layer.scale)


def singular_values(layer: Factors) -> torch.Tensor:
    """The layer's own, the largest first, as many as its rank allows."""
    middle = torch.linalg.qr(layer.up).R @ torch.linalg.qr(layer.down.flatten(1).T).R.T
    values: torch.Tensor = torch.linalg.svdvals(middle)
    return values * abs(layer.scale)


def compress(matrix: torch.Tensor, limit: RankLimit) -> Truncated:
    """The best approximation of a whole matrix (out, in) or (out, in, k, k): of a difference of two checkpoints.

    By the eigenvectors of the smaller product of the matrix with itself, which takes a fraction of the time of its
    SVD; singular values below 1e-7 of the largest are lost in it.
    """
    flat = matrix.to(torch.float64).flatten(1)
    is_wide = flat.shape[0] <= flat.shape[1]
    wide = flat if is_wide else flat.T
    energies, vectors = torch.linalg.eigh(wide @ wide.T)  # ascending
    energies, vectors = energies.flip(0).clamp_min(0), vectors.flip(1)
    values = energies.sqrt()
    values = values * (values > 1e-7 * values[:1])
    other = vectors.T @ wide / values.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    parts = (vectors, values, other) if is_wide else (other.T, values, vectors.T)
    return _keep(limit, matrix.shape[1:], parts, 1.0)


def _keep(
    limit: RankLimit, tail: tuple[int, ...], parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor], sign: float
) -> Truncated:
    """The first singular vectors (out, n), values (n,) and vectors (n, columns) as factors.

    The largest value becomes the scale, so that the factors' values are in fp16's range.
    """
    left, values, right = parts
    energies = values.square()
    total = float(energies.sum())
    rank = limit.rank_for(energies, total)
    if rank == 0:
        return Truncated(None, 0.0, total)
    largest = float(values[0])
    roots = (values[:rank] / largest).sqrt()
    up, down = left[:, :rank] * roots, roots[:, None] * right[:rank]
    layer = Factors(up, down.reshape(rank, *tail), math.copysign(largest, sign))
    return Truncated(layer, float(energies[:rank].sum()), total)


def layer_tensors(name: str, layer: Factors) -> dict[str, torch.Tensor]:
    """A layer with kohya keys, float32. The scale's absolute value goes into alpha, its sign into lora_up."""
    up = layer.up * math.copysign(1.0, layer.scale)
    return {
        f"{name}{DOWN}": layer.down.float().contiguous(),
        f"{name}{UP}": up.reshape(*up.shape, *[1] * (layer.down.ndim - 2)).float().contiguous(),
        f"{name}{ALPHA}": torch.tensor(abs(layer.scale) * layer.rank, dtype=torch.float32),
    }
