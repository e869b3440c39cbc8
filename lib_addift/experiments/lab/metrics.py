"""The laboratory's metrics: plain arithmetic on pictures, readings and figures, one function each.

Pictures are (h, w, 3), batches of them (faces, h, w, 3), values 0 to 255. A metric of nothing is NaN.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence

import numpy as np

GOOD_HITS, GOOD_FLIPS = 0.9, 0.05  # of a good run: at least, at most
FAILED_HITS = 0.8  # below it a LoRA has failed
_FELT = 0.2  # share of the whole effect below which a ratio of effects means nothing
Readings = Sequence[Mapping[str, str]]


def share(hits: Sequence[bool]) -> float:
    """Hits / faces, 0 to 1."""
    return sum(hits) / len(hits) if len(hits) else math.nan


def flips(before: Readings, after: Readings, names: Collection[str]) -> float:
    """Share of faces, 0 to 1, in which any of the attributes `names` is read differently than before."""
    return share([any(b[name] != a[name] for name in names) for b, a in zip(before, after, strict=True)])


def interference(before: np.ndarray, after: np.ndarray, areas: np.ndarray) -> float:
    """Mean |after - before| over all pixels outside of the area that may change, in grey levels of 0 to 255.

    `areas` is (faces, h, w), true where the change may alter something.
    """
    change = np.abs(after.astype(np.float64) - before).mean(axis=3)
    return float(change[~areas].mean()) if not areas.all() else math.nan


def effects(levels: np.ndarray, original: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(level - original's) / (target's - original's): 0 as in the original, 1 as in the target of the same face.

    `levels` is (weights, faces, attributes), the others (faces, attributes). Returns the mean over the attributes,
    (weights, faces).
    """
    result: np.ndarray = ((levels - original) / (target - original)).mean(axis=2)
    return result


def strength(effect: float, full: float) -> float:
    """The effect at some weight as a share of that at weight 1, both counted from that at weight 0.

    NaN where the effect at weight 1 is below a fifth of the whole change.
    """
    return effect / full if full >= _FELT else math.nan


def is_good(hits: float, flipped: float) -> bool:
    """A good run: at least 90 % hits and at most 5 % flips."""
    return hits >= GOOD_HITS and flipped <= GOOD_FLIPS


def worst_tenth(hits: Sequence[float]) -> float:
    """The mean of the lowest tenth of the runs, at least of one."""
    return statistics.fmean(sorted(hits)[: math.ceil(len(hits) / 10)]) if hits else math.nan


def false_assurance(said_good: Sequence[bool], hits: Sequence[float]) -> float:
    """Of the runs that were said to be good, the share with hits below 80 %; 0 where none was."""
    return _share_of([hit < FAILED_HITS for said, hit in zip(said_good, hits, strict=True) if said])


def false_alarm(said_good: Sequence[bool], hits: Sequence[float]) -> float:
    """Of the runs that were said to be bad, the share with hits of at least 90 %; 0 where none was."""
    return _share_of([hit >= GOOD_HITS for said, hit in zip(said_good, hits, strict=True) if not said])


def _share_of(cases: Sequence[bool]) -> float:
    return share(cases) if cases else 0.0
