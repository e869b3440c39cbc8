"""The laboratory's metrics: plain arithmetic on pictures and detected attributes, one function each.

Pictures are (64, 64, 3), batches of them (faces, 64, 64, 3), values 0 to 255. A metric of nothing is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

_REACH = 1  # px by which what is learnt may be shifted against the painted picture: the faces vary by as much
_FAR = 4  # px; wider than a blurred edge
_FALL = 0.05  # share of the whole effect below which a decrease counts as noise
Readings = Sequence[Mapping[str, str]]


def share(hits: Sequence[bool]) -> float:
    """Hits / faces, 0 to 1."""
    return sum(hits) / len(hits) if len(hits) else math.nan


def flips(before: Readings, after: Readings, names: Collection[str]) -> float:
    """Share of faces, 0 to 1, in which any of the attributes `names` is read differently than before."""
    return share([any(b[name] != a[name] for name in names) for b, a in zip(before, after, strict=True)])


def interference(before: np.ndarray, after: np.ndarray, areas: np.ndarray) -> float:
    """Mean |after - before| over all pixels outside of the area that may change, in grey levels of 0 to 255.

    `areas` is (faces, 64, 64), true where the attribute may change something.
    """
    change = np.abs(after.astype(np.float64) - before).mean(axis=3)
    return float(change[~areas].mean()) if not areas.all() else math.nan


def effects(levels: np.ndarray, original: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(level - original's) / (target's - original's): 0 as in the original, 1 as in the target of the same face.

    `levels` is (weights, faces), the others (faces,).
    """
    result: np.ndarray = (levels - original) / (target - original)
    return result


def monotony(values: np.ndarray) -> float:
    """Share of steps from a weight to the next higher one, over all faces, in which the effect does not fall; 0 to 1.

    `values` are effects (weights in rising order, faces); a fall of up to 0.05 counts as none.
    """
    return float((np.diff(values, axis=0) >= -_FALL).mean())


def linearity(weights: Sequence[float], values: Sequence[float]) -> float:
    """R squared of the straight line of least squares through effect against weight: 1 is a straight line.

    1 - sum (value - line)^2 / sum (value - mean)^2; NaN where the effect is the same at all weights.
    """
    x, y = np.asarray(weights, dtype=np.float64), np.asarray(values, dtype=np.float64)
    spread = float(((y - y.mean()) ** 2).sum())
    if spread < 1e-12:
        return math.nan
    line = np.polyval(np.polyfit(x, y, 1), x)
    return 1 - float(((y - line) ** 2).sum()) / spread


def contrast(picture: np.ndarray, target: np.ndarray, mark: np.ndarray) -> float:
    """The difference of colour between a mark and its surroundings, along the target's and as a share of it.

    sum s(picture) . s(target) / sum |s(target)|^2 over all pixels 4 px apart, beside or below each other, of which one
    is in the mark and the other is not; s is their difference of colour. 1: as strong as in the target; below 1: paler;
    0: not there; below 0: the other way round.
    """
    return _along(_steps(picture, mark, _FAR), _steps(target, mark, _FAR))


def sharpness(picture: np.ndarray, target: np.ndarray, mark: np.ndarray) -> float:
    """The gradient across a mark's edge: as `contrast`, between neighbouring pixels. Below it: blurred."""
    return _along(_steps(picture, mark, 1), _steps(target, mark, 1))


def aligned(picture: np.ndarray, target: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """The picture, shifted by up to 1 px in each direction so that its edge fits the target's best."""
    shifts = range(-_REACH, _REACH + 1)
    return max((_moved(picture, dx, dy) for dy in shifts for dx in shifts), key=lambda p: sharpness(p, target, mark))


def both(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Share of faces, 0 to 1, with a hit in both lists; for two independent LoRAs the product of their shares."""
    return share([a and b for a, b in zip(first, second, strict=True)])


def first_reached(steps: Sequence[int], is_enough: Callable[[int], bool]) -> int:
    """The first of the rising `steps` at which `is_enough`, by bisection; at the last one it must be."""
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(steps[middle]) else (middle + 1, high)
    return steps[high]


def dilated(area: np.ndarray, margin: int) -> np.ndarray:
    """Morphological dilation: an area (h, w) and all pixels up to `margin` px from it, corners included."""
    padded = np.pad(area, margin)
    height, width = area.shape
    result = np.zeros_like(area)
    for dy in range(2 * margin + 1):
        for dx in range(2 * margin + 1):
            result |= padded[dy : dy + height, dx : dx + width]
    return result


def _steps(pixels: np.ndarray, mark: np.ndarray, span: int) -> np.ndarray:
    """Differences of colour between pixels `span` px apart, one in the mark and one not, (pixels, 3)."""
    values = pixels.astype(np.float64)
    beside, below = mark[:, span:] != mark[:, :-span], mark[span:] != mark[:-span]
    return np.concatenate([(values[:, span:] - values[:, :-span])[beside], (values[span:] - values[:-span])[below]])


def _along(vector: np.ndarray, wanted: np.ndarray) -> float:
    """The part of `vector` along `wanted`, in units of `wanted`."""
    length = float((wanted * wanted).sum())
    return float((vector * wanted).sum()) / length if length else math.nan


def _moved(picture: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """The picture moved to the right by dx and down by dy; its border is repeated."""
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="edge")
    return padded[_REACH - dy : _REACH - dy + height, _REACH - dx : _REACH - dx + width]
