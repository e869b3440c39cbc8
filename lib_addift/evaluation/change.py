"""What a LoRA changes in pictures, in the latents, beside what a pair changes.

Nothing says where in a new picture that is, so the cells are compared that change most, as many as hold most of the
pair's change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lib_addift.diffusion.latents import LatentPair

_AREA = 0.8  # the strongest cells of a pair hold this share of its change
_COMMON = 0.4  # a pair whose mean change is less than so much of the change itself has none: a pattern, or a movement
_NOT_FINITE = 1e6  # the spread of a picture whose latents are not finite


@dataclass(frozen=True)
class Changes:
    """The figures of each picture, as NewPictures explains them."""

    sizes: tuple[float, ...]
    spreads: tuple[float, ...]
    along: tuple[float, ...]
    apart: tuple[float, ...]


@dataclass(frozen=True)
class PairChange:
    """What a pair's change looks like, wherever it is: means over pairs, of squared changes per cell."""

    area: float  # share of the cells that hold _AREA of it
    strongest: float  # in these cells
    beside: float  # in the other cells, per cell of the whole picture
    whole: float  # in all cells
    direction: torch.Tensor  # (C,) mean change of the strongest cells

    @classmethod
    def of(cls, pairs: Sequence[LatentPair]) -> PairChange:
        """The mean of what `pairs` differ in; their sizes may differ."""
        each = [cls._of_pair(pair.target.latents - pair.original.latents) for pair in pairs]

        def mean(figure: str) -> float:
            return float(sum(getattr(change, figure) for change in each)) / len(each)

        direction = torch.stack([change.direction for change in each]).mean(dim=0)
        return cls(mean("area"), mean("strongest"), mean("beside"), mean("whole"), direction)

    def compared(self, latents: torch.Tensor, *, directed: bool) -> Changes:
        """The figures of latents (3, count, C, h, w) at weights -w, 0 and w. `directed`: see Algorithm."""
        change = latents[2] - latents[0]
        energy = _energy(change)
        cells = energy.topk(max(1, round(self.area * energy.shape[1])), dim=1).indices
        along = torch.cosine_similarity(_mean_of(change, cells), self.direction[None], dim=1)
        sizes = (energy.gather(1, cells).mean(dim=1) / self.strongest).sqrt()
        if directed and self._has_direction:
            sizes = sizes.where(along > 0, 0.0)
        beside = _energy(latents[2] - latents[1]).scatter(1, cells, 0.0).mean(dim=1)
        apart = torch.zeros_like(along)
        if not directed and self._has_direction:
            apart = self._apart(_mean_of(latents[2], cells))
        spreads = _rounded((beside - self.beside) / self.whole, _NOT_FINITE)
        return Changes(_rounded(sizes), spreads, _rounded(along), _rounded(apart, _NOT_FINITE))

    @property
    def _has_direction(self) -> bool:
        """Whether the strongest cells change alike."""
        return float(self.direction.norm()) >= _COMMON * math.sqrt(self.strongest)

    def _apart(self, means: torch.Tensor) -> torch.Tensor:
        """How far each of the means (count, C) is from their median, in units of the pair's mean change."""
        distances: torch.Tensor = (means - means.median(dim=0).values).norm(dim=1)
        return distances / float(self.direction.norm())

    @classmethod
    def _of_pair(cls, change: torch.Tensor) -> PairChange:
        energy, order = _energy(change)[0].sort(descending=True)
        count = int((energy.cumsum(dim=0) < _AREA * energy.sum()).sum()) + 1
        whole, inside = float(energy.mean()), float(energy[:count].sum()) / len(energy)
        direction = change.flatten(2)[0, :, order[:count]].mean(dim=1)
        return cls(count / len(energy), float(energy[:count].mean()), whole - inside, whole, direction)


def _energy(change: torch.Tensor) -> torch.Tensor:
    """(count, cells): the squared change of each cell, of (count, C, h, w)."""
    return change.square().sum(dim=1).flatten(1)


def _mean_of(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """(count, C): the mean of (count, C, h, w) over some cells of each, (count, k)."""
    return values.flatten(2).gather(2, cells[:, None].expand(-1, values.shape[1], -1)).mean(dim=2)


def _rounded(values: torch.Tensor, not_finite: float = 0.0) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values.nan_to_num(not_finite, not_finite, not_finite).tolist())
