"""The loss curve as an inline SVG that takes its colours from the page's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence

_WIDTH, _HEIGHT, _MARGIN = 300.0, 64.0, 3.0
_MAX_POINTS = 300
_SMOOTHING = 0.8  # weight of the mean so far, beside that of one loss


def curve(losses: Sequence[float], total: int) -> str:
    """Losses by step, and their running mean on top. Nothing for fewer than two finite losses."""
    finite = [loss for loss in list(losses) if math.isfinite(loss)]
    if len(finite) < 2:
        return ""
    means = _running_means(finite)
    low, high = min(finite), max(finite)
    lines = "".join(
        f'<polyline class="{kind}" points="{_points(values, total, low, high)}" vector-effect="non-scaling-stroke"/>'
        for kind, values in (("addift-raw", finite), ("addift-mean", means))
    )
    text = f"Loss over {len(finite)} steps: from {means[0]:.3g} to {means[-1]:.3g}"
    return (
        f'<figure class="addift-loss"><svg class="addift-curve" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" '
        f'preserveAspectRatio="none" role="img" aria-label="{text}"><title>{text}</title>{lines}</svg>'
        f"<figcaption><span>Loss</span><span>now {means[-1]:.3g}, at first {means[0]:.3g}</span></figcaption></figure>"
    )


def _running_means(values: Sequence[float]) -> list[float]:
    """Exponential moving averages, corrected for the start as in Adam."""
    means, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = _SMOOTHING * mean + (1 - _SMOOTHING) * value, _SMOOTHING * weight + 1 - _SMOOTHING
        means.append(mean / weight)
    return means


def _points(values: Sequence[float], total: int, low: float, high: float) -> str:
    every = math.ceil(len(values) / _MAX_POINTS)
    scale = (_HEIGHT - 2 * _MARGIN) / ((high - low) or 1.0)
    return " ".join(
        f"{_WIDTH * step / max(1, total - 1, len(values) - 1):.1f},{_HEIGHT - _MARGIN - (value - low) * scale:.1f}"
        for step, value in list(enumerate(values))[::every]
    )
