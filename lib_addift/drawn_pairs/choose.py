"""How large and how concentrated the change of a pair is, which pairs are good, and which differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lib_addift.drawn_pairs.pair import DrawnPair

CELLS = 16  # a picture is cut into 16 x 16 cells
_STRONGEST = 1 / 20  # of the cells, whose mean is a change's size
_QUARTER = 1 / 4
_VISIBLE = 0.02  # of 1; a smaller change is none
_LARGE = 0.2  # of the reference's size, below which a change is too small
_CONCENTRATED = 0.5  # of the reference's concentration


@dataclass(frozen=True)
class Change:
    """The difference of two pictures, 0 to 1 each: see `DrawnPair`."""

    size: float
    concentration: float

    def is_as_good_as(self, reference: Change) -> bool:
        """Whether it is about as large and as concentrated as another."""
        is_large = self.size >= max(_VISIBLE, _LARGE * reference.size)
        return is_large and self.concentration >= _CONCENTRATED * reference.concentration


def change_cells(original: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The mean difference of two pictures (H, W, 3) uint8 in each cell: (16, 16), 0 to 1."""
    difference = np.abs(target.astype(np.float32) - original).mean(axis=2) / 255
    cells = Image.fromarray(difference).resize((CELLS, CELLS), Image.Resampling.BOX)
    return np.asarray(cells, dtype=np.float64)


def measure(original: np.ndarray, target: np.ndarray) -> Change:
    """The change between two pictures, (H, W, 3) uint8."""
    cells = np.sort(change_cells(original, target), axis=None)[::-1]
    total = float(cells.sum())
    strongest = cells[: round(_STRONGEST * cells.size)]
    quarter = cells[: round(_QUARTER * cells.size)]
    return Change(float(strongest.mean()), float(quarter.sum()) / total if total else 0.0)


def good_pairs(pairs: Sequence[DrawnPair]) -> list[DrawnPair]:
    """Those whose change is about as large and as concentrated as that of the others.

    Compared with the third quartile of their sizes, as the pairs without the change may be most of them, and with the
    median of their concentrations.
    """
    if not pairs:
        return []
    size = float(np.quantile([pair.size for pair in pairs], 0.75))
    reference = Change(size, float(np.median([pair.concentration for pair in pairs])))
    return [pair for pair in pairs if Change(pair.size, pair.concentration).is_as_good_as(reference)]


def most_different_first(pairs: Sequence[DrawnPair]) -> list[DrawnPair]:
    """The first pair, then always the one whose original is farthest from those before it (farthest-point order)."""
    small = [_small(pair.original) for pair in pairs]
    order, rest = [0] if pairs else [], set(range(1, len(pairs)))
    nearest = dict.fromkeys(rest, np.inf)
    while rest:
        for place in rest:
            nearest[place] = min(nearest[place], float(np.abs(small[place] - small[order[-1]]).mean()))
        order.append(max(sorted(rest), key=nearest.__getitem__))
        rest.discard(order[-1])
    return [pairs[place] for place in order]


def _small(picture: np.ndarray) -> np.ndarray:
    """(16, 16, 3) float: a picture without its details."""
    return np.asarray(Image.fromarray(picture).resize((CELLS, CELLS), Image.Resampling.BOX), dtype=np.float32)
