"""Augmentation: mirrored and zoomed views, alike for both pictures of a pair, so that its place is not learnt."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair

_SAME = 0.6  # correlation of a change with its mirror image, from which on it counts as the same
_MOST = 0.4  # share of the picture, up to which a change is in a part of it
_FAINT = 0.1  # share of the largest squared change, up to which a cell counts as unchanged
_CELL = 8  # px: what is smaller than a cell of the latents has no side


def views_count(config: TrainConfig) -> int:
    """How many views of each pair there are."""
    return (2 if config.mirror == "on" else 1) * (2 if config.zoom > 1 else 1)


def views(pair: ImagePair, config: TrainConfig) -> list[ImagePair]:
    """The pair itself, then what `config.zoom` and `config.mirror` add; all have the same size."""
    result = [pair]
    if config.zoom > 1:
        result.append(_zoomed(pair, config.zoom))
    if config.mirror == "on":
        result += [_mirrored(view) for view in result]
    return result


def is_worth_mirroring(pair: ImagePair) -> bool:
    """Whether the change is in a part of the picture, whose side could be learnt with it, and the same in a mirror.

    A movement, a look or a turn to one side is the opposite in a mirror. The change is laid over its mirror image
    around its own middle, so where in the picture it is does not matter.
    """
    change = pair.target.astype(np.float32) - pair.original
    strength = _in_cells(np.square(change)).sum(axis=2)
    if (strength > _FAINT * strength.max()).mean() > _MOST:
        return False
    energy = np.square(change).sum(axis=(0, 2))
    columns = len(energy)
    twice_middle = round(2 * float(energy @ np.arange(columns)) / max(float(energy.sum()), 1.0))
    first, last = max(0, twice_middle - columns + 1), min(columns - 1, twice_middle)
    around = change[:, first : last + 1]
    cells, mirrored = _in_cells(around), _in_cells(around[:, ::-1])
    return float((cells * mirrored).sum()) >= _SAME * float(np.square(cells).sum())


def _in_cells(change: np.ndarray) -> np.ndarray:
    """(H, W, 3) as means of squares of 8 px; what is left over is left out, at both sides alike."""
    rows, columns = (length // _CELL for length in change.shape[:2])
    top, left = (length % _CELL // 2 for length in change.shape[:2])
    cut = change[top : top + rows * _CELL, left : left + columns * _CELL]
    means: np.ndarray = cut.reshape(rows, _CELL, columns, _CELL, 3).mean(axis=(1, 3))
    return means


def _mirrored(pair: ImagePair) -> ImagePair:
    original, target = (np.ascontiguousarray(picture[:, ::-1]) for picture in (pair.original, pair.target))
    mask = None if pair.mask is None else np.ascontiguousarray(pair.mask[:, ::-1])
    return dataclasses.replace(pair, original=original, target=target, mask=mask)


def _zoomed(pair: ImagePair, zoom: float) -> ImagePair:
    """A part of the pair around the middle of its mask, enlarged `zoom` times."""
    height, width = pair.original.shape[:2]
    row, column = _centre(pair.mask, (height, width))
    part_height, part_width = height / zoom, width / zoom
    top = min(max(row - part_height / 2, 0), height - part_height)
    left = min(max(column - part_width / 2, 0), width - part_width)
    box = (left, top, left + part_width, top + part_height)

    def cut(picture: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC, box=box))

    mask = None if pair.mask is None else cut(pair.mask).clip(0, 1)
    return dataclasses.replace(pair, original=cut(pair.original), target=cut(pair.target), mask=mask)


def _centre(mask: np.ndarray | None, size: tuple[int, int]) -> tuple[float, float]:
    """Row and column of the mask's middle; where it has a hole there, of its strongest point."""
    if mask is None:
        return size[0] / 2, size[1] / 2
    rows, columns = (np.arange(length) + 0.5 for length in size)
    row, column = float(mask.sum(1) @ rows / mask.sum()), float(mask.sum(0) @ columns / mask.sum())
    if mask[int(row), int(column)] > 0:
        return row, column
    strongest = np.unravel_index(int(mask.argmax()), mask.shape)
    return float(strongest[0]) + 0.5, float(strongest[1]) + 0.5
