"""Labelled rows of pictures, as evaluation/preview.py draws them, shown picture by picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from lib_addift.evaluation.preview import label_height
from lib_addift.ui.render import escape, picture_url


@dataclass(frozen=True)
class Sheet:
    """A picture made of rows of cells, each with a label under it."""

    image: Image.Image
    columns: int
    rows: int = 1

    @property
    def width(self) -> int:
        """Of a cell, in px."""
        return self.image.width // self.columns

    @property
    def height(self) -> int:
        """Of a cell, in px, without its label."""
        return self.image.height // self.rows - label_height(self.width)

    @property
    def style(self) -> str:
        """The CSS of an element around the cells: the picture, and what a cell is of it."""
        size = f"{100 * self.columns}% {100 * self.image.height / self.height:.4f}%"
        url = picture_url(self.image)
        return f"--sheet:url({url});--size:{size};--ratio:{self.width}/{self.height}"

    def cell(self, row: int, column: int, alt: str, css: str = "") -> str:
        """One cell; its place is a share of what sticks out of it, as CSS counts."""
        left = 100 * column / max(1, self.columns - 1)
        top = 100 * row * (self.image.height / self.rows) / max(1, self.image.height - self.height)
        role = f'role="img" aria-label="{escape(alt)}"' if alt else 'aria-hidden="true"'
        return f'<div class="addift-cell {css}" {role} style="background-position:{left:.4f}% {top:.4f}%"></div>'


def sheet_of(image: Image.Image, cells: int, columns: int) -> Sheet:
    """The sheet of so many cells in rows of `columns`; of fewer cells there is one shorter row."""
    return Sheet(image, min(columns, cells), math.ceil(cells / columns))
