"""Augmentation: mirrored and zoomed views, alike for both pictures of a pair, so that its place is not learnt."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair


def views_count(config: TrainConfig) -> int:
    """How many views of each pair there are."""
    return (2 if config.mirror else 1) * (2 if config.zoom > 1 else 1)


def views(pair: ImagePair, config: TrainConfig) -> list[ImagePair]:
    """The pair itself, then what `config.zoom` and `config.mirror` add; all have the same size."""
    result = [pair]
    if config.zoom > 1:
        result.append(_zoomed(pair, config.zoom))
    if config.mirror:
        result += [_mirrored(view) for view in result]
    return result


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
