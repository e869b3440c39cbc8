"""The laboratory's plots, as PNG files in memory."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from lib_addift.experiments.lab.picture_metrics import WEIGHTS
from lib_addift.experiments.lab.summary import Summary, spread

_COLUMNS = 3
_DPI = 80
_GREY = "0.65"
# Colours of separate methods; variations of ours are grey.
_COLOURS = {
    "ours": "tab:blue", "published": "tab:red", "copier": "tab:orange", "residual": "tab:green", "slider": "tab:purple",
    "lora": "tab:brown", "differential": "tab:olive", "words": "black",
}  # fmt: skip


def plots(summary: Summary) -> dict[str, bytes]:
    """File names and contents."""
    shares = [("hits", "at 1", "o", True), ("reverse_hits", "at -1", "o", False), ("flips", "flips", "x", True)]
    edges = [("contrast", "contrast", "o", True), ("sharpness", "sharpness", "o", False)]
    return {
        "hits.png": _panels(summary, lambda axes, task: _dots(axes, summary, task, shares, limits=(-0.04, 1.04))),
        "edges.png": _panels(summary, lambda axes, task: _dots(axes, summary, task, edges, limits=(0, 1.3))),
        "growth.png": _panels(summary, lambda axes, task: _growth(axes, summary, task), height=2.6),
        "steps.png": _panels(summary, lambda axes, task: _dots(
            axes, summary, task, [("steps_to_90", "steps to 90 %", "o", True)]
        )),
    }  # fmt: skip


def _panels(summary: Summary, draw: Callable[[Any, str], None], height: float = 0.0) -> bytes:
    """A PNG with one panel for each task."""
    import matplotlib as mpl

    mpl.use("Agg")  # no window, and none needed
    from matplotlib import pyplot as plt

    rows = math.ceil(len(summary.cells) / _COLUMNS)
    height = height or 0.7 + 0.17 * len(summary.variants)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(11, height * rows), squeeze=False, layout="constrained")
    for place, task in zip(axes.flat, summary.cells, strict=False):
        draw(place, task)
        place.set_title(task, fontsize=9)
        place.tick_params(labelsize=7)
        place.grid(alpha=0.3)
    for place in axes.flat[len(summary.cells) :]:
        place.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    plt.close(figure)
    return file.getvalue()


def _dots(
    axes: Any, summary: Summary, task: str, marks: Sequence[tuple[str, str, str, bool]], *,
    limits: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    """One row for each variant: means as markers, spreads as error bars; without `limits` on a logarithmic axis."""
    names = summary.variants
    for key, label, marker, is_filled in marks:
        for row, name in enumerate(names):
            values = summary.values(task, name, key)
            if values:
                colour = _COLOURS.get(name, _GREY)
                axes.errorbar(
                    sum(values) / len(values), row, xerr=spread(values), fmt=marker, color=colour, markersize=5,
                    markerfacecolor=colour if is_filled else "white", linewidth=1,
                )  # fmt: skip
        axes.plot([], [], marker, color="0.3", markerfacecolor="0.3" if is_filled else "white", label=label)
    if limits is None:
        axes.set_xscale("log")
    else:
        axes.axvline(1, color="0.3", linewidth=0.8)
        axes.set_xlim(limits)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _growth(axes: Any, summary: Summary, task: str) -> None:
    """The mean effect against the weight: 0 as the painted original, 1 as the painted target."""
    for name in summary.variants:
        curves = [row["effects"] for row in summary.cells[task].get(name, []) if row.get("effects")]
        if name in _COLOURS and name != "words":
            means = [sum(points) / len(points) for points in zip(*curves, strict=True)]
            axes.plot(WEIGHTS[: len(means)], means, ".-", color=_COLOURS[name], linewidth=1, label=name)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.axhline(1, color="0.3", linewidth=0.8)
    axes.set_ylim(-0.5, 1.8)
