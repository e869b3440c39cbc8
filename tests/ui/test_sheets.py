"""Cells of a labelled grid, shown one by one: each lies where the drawn picture has it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from lib_addift.evaluation.preview import labelled_grid
from lib_addift.ui.sheets import Sheet, sheet_of


def shown(sheet: Sheet, row: int, column: int) -> np.ndarray:
    """What a browser shows of the sheet in a cell of its own size, as the cell's CSS places it: (H, W, 3)."""
    found = re.search(r"background-position:([\d.]+)% ([\d.]+)%", sheet.cell(row, column, "x"))
    assert found is not None
    across, down = (float(share) / 100 for share in found.groups())
    left = round(across * (sheet.image.width - sheet.width))
    top = round(down * (sheet.image.height - sheet.height))
    return np.asarray(sheet.image.crop((left, top, left + sheet.width, top + sheet.height)))


@pytest.mark.parametrize(("count", "side"), [(24, 64), (18, 64), (3, 128), (6, 300)])
def test_a_cell_shows_its_picture_without_the_label(count: int, side: int) -> None:
    images = np.stack([np.full((side, side, 3), 10 * number, np.uint8) for number in range(count)])
    image = labelled_grid(images, ["1"] * count, 6)
    sheet = sheet_of(image, count, 6)
    for number in range(count):
        cell = shown(sheet, *divmod(number, 6))
        assert cell.shape[0] == cell.shape[1] == max(side, 128)
        assert (cell == 10 * number).all(), number


def test_the_style_scales_the_sheet_to_the_cells() -> None:
    sheet = Sheet(Image.new("RGB", (5 * 128, 128 + 14)), 5)
    assert "--size:500% 110.9375%;--ratio:128/128" in sheet.style
    assert "aria-hidden" in sheet.cell(0, 0, "")
