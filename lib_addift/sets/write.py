"""Writes drawn pairs as a set: a folder that training finds again, with captions, settings and a sheet to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lib_addift.config.prompts import without_alternatives
from lib_addift.drawn_pairs.pair import DrawnPair
from lib_addift.errors import PictureError
from lib_addift.evaluation.preview import labelled_grid
from lib_addift.files import png_bytes, replace_files
from lib_addift.sets.names import shown
from lib_addift.sets.settings_file import FILE_NAME

TARGET_ENDING = "_target"
_COLUMNS = 4  # pairs in a row of the sheet
_CELL = 256  # px, the most of a picture's longer side on the sheet
_SETTINGS = """\
# Drawn pairs: each is trained under its own caption, and everywhere in the picture.
suffix = "{suffix}"
mask = "off"
preview_prompt = {caption}
"""


def sheet_file(folder: Path) -> Path:
    """The contact sheet of a set: beside its folder, where it is not taken for a picture of the set."""
    return folder.parent / f"{folder.name}_pairs.png"


def check_new_set(folder: Path) -> None:
    """Raises PictureError when a set cannot be written there: it is not an empty folder, or a file."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PictureError(f"'{shown(str(folder))}' exists and is not empty: name a new folder for the pairs.")
    except OSError as error:
        raise PictureError(f"'{shown(str(folder))}' cannot be read ({error.strerror}): name another folder.") from error


def write_set(folder: Path, pairs: Sequence[DrawnPair]) -> Path:
    """Write pairs to a new folder, and their contact sheet beside it; returns the sheet's file.

    The folder has pair_01.png, pair_01_target.png, pair_01.txt with the caption (pair_01_target.txt where the target's
    differs) and an addift.toml with mask = off. All files appear, or none. Raises PictureError.
    """
    check_new_set(folder)
    digits = max(2, len(str(len(pairs))))
    contents: dict[Path, bytes] = {}
    for number, pair in enumerate(pairs, 1):
        name = f"pair_{number:0{digits}}"
        contents[folder / f"{name}.png"] = png_bytes(Image.fromarray(pair.original))
        contents[folder / f"{name}{TARGET_ENDING}.png"] = png_bytes(Image.fromarray(pair.target))
        if pair.original_prompt or pair.target_prompt:
            contents[folder / f"{name}.txt"] = f"{pair.original_prompt}\n".encode()
        if pair.target_prompt != pair.original_prompt:
            contents[folder / f"{name}{TARGET_ENDING}.txt"] = f"{pair.target_prompt}\n".encode()
    sheet = sheet_file(folder)
    contents[sheet] = png_bytes(contact_sheet(pairs))
    caption = json.dumps(without_alternatives(pairs[0].original_prompt), ensure_ascii=False)  # TOML has the same form
    contents[folder / FILE_NAME] = _SETTINGS.format(suffix=TARGET_ENDING, caption=caption).encode()
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_files(contents)
    except OSError as error:
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise PictureError(f"the pairs cannot be saved in '{shown(str(folder))}' ({error.strerror}).") from error
    return sheet


def contact_sheet(pairs: Sequence[DrawnPair]) -> Image.Image:
    """All pairs in rows of four, each original beside its target, with the numbers of their files under them."""
    side = max(max(pair.original.shape[:2]) for pair in pairs)
    cells = [_cell(picture, min(side, _CELL)) for pair in pairs for picture in (pair.original, pair.target)]
    labels = [label for number in range(1, len(pairs) + 1) for label in (f"{number}", f"{number} target")]
    return labelled_grid(np.stack(cells), labels, 2 * min(_COLUMNS, len(pairs)))


def _cell(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture (H, W, 3) in the middle of a white square of `side` px, scaled down to it."""
    small = Image.fromarray(picture)
    small.thumbnail((side, side))
    square = Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return np.asarray(square)
