"""Where two pictures differ: what counts as change and what as noise, and the soft mask around the change."""

from __future__ import annotations

import math

import numpy as np

WHOLE_SHARE = 0.6  # a change of more than this share of the picture is a change of the whole picture
_GLOBAL_SHIFT = 12.0  # grey levels; a larger difference of the whole picture is intended
_NOISE_LEVELS = (4.0, 12.0)  # grey levels; bounds of what may count as noise
_FAINT = 0.1  # share of the strongest change below which a change counts as compression noise


def difference_mask(original: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Where two pictures, (H, W, 3) uint8, differ: (H, W) float32 in 0..1, or None when no part of them stands out.

    1 on what changed, but for changes that are faint beside the strongest; 0 from a sixteenth of the picture away.
    """
    change = change_level(original, target)
    if not 0 < np.mean(change > 0) <= WHOLE_SHARE:
        return None
    margin = round(math.sqrt(change.size)) // 32
    grown = _box_mean(change > _FAINT * change.max(), margin) > 0.5 / (2 * margin + 1) ** 2
    # Two means over half the margin reach no further than the growth: the changed pixels themselves stay at 1.
    soft = _box_mean(_box_mean(grown, margin // 2), margin // 2)
    return np.asarray((soft / soft.max()).clip(0, 1), dtype=np.float32)


def change_level(original: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How much two pictures, (H, W, 3) uint8, differ around each pixel: (H, W) grey levels, 0 where it is only noise.

    A small difference of colour that the whole picture shares is left out.
    """
    difference = target.astype(np.float64) - original
    shift = np.median(difference, axis=(0, 1))
    if np.abs(shift).max() <= _GLOBAL_SHIFT:
        difference -= shift
    level = _box_mean(np.abs(difference).mean(axis=2), max(1, round(math.sqrt(difference[..., 0].size)) // 128))
    noise = float(np.clip(3 * np.quantile(level, 0.25), *_NOISE_LEVELS))  # the calmest quarter holds noise only
    return np.where(level > noise, level, 0.0)


def dilated(area: np.ndarray, margin: int) -> np.ndarray:
    """Morphological dilation: an area (h, w) of bool and all places up to `margin` from it, corners included."""
    padded = np.pad(area, margin)
    height, width = area.shape
    result = np.zeros_like(area)
    for dy in range(2 * margin + 1):
        for dx in range(2 * margin + 1):
            result |= padded[dy : dy + height, dx : dx + width]
    return result


def _box_mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over the (2 radius + 1) squared px around each pixel of (H, W), edges repeated; float64."""
    span = 2 * radius + 1
    for _ in range(2):  # down the columns; then, transposed, along the rows
        sums = np.pad(values, ((radius + 1, radius), (0, 0)), mode="edge").cumsum(axis=0, dtype=np.float64)
        values = ((sums[span:] - sums[:-span]) / span).T
    return values
