"""Files that a person dropped or pasted, made into pairs by their names. No gradio."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lib_addift.data.pictures import load_picture
from lib_addift.errors import PictureError
from lib_addift.sets.names import HALVES, shown
from lib_addift.sets.pairing import Listing, find_pairs
from lib_addift.ui.pairs import FormPair

_RULE = "call a target like its original with _target behind it (face.png, face_target.png)"


def pairs_of(files: Sequence[Path]) -> tuple[list[FormPair], list[Image.Image], list[str]]:
    """Match files by the rules of folders: pairs with their masks and captions, single pictures, notes for the person.

    Of two pictures without matching names the first is the original. One picture is a single one. Raises
    PictureError when nothing can be made of the files, or when one of them is no picture.
    """
    with tempfile.TemporaryDirectory(prefix="addift-") as name:
        folder = Path(name)
        copies = _copied(files, folder)
        pictures = [path for path in copies if path in _pictures(folder)]
        if not pictures:
            raise PictureError("there is no picture among these files: choose PNG, JPEG, WebP or the like.")
        if len(pictures) == 1:
            return [], [load_picture(pictures[0], "picture")], []
        found = find_pairs(folder)
        if found.pairs:
            pairs = [FormPair.of(source) for source in found.pairs]
            broken = [shown(pair.name) for pair in pairs if pair.missing]
            if broken:
                raise PictureError(
                    f"a picture of '{broken[0]}' cannot be read: open it in a picture editor and save it."
                )
            return pairs, [], [note for note in found.notes[1:] if "without a partner" in note or "one name" in note]
        if len(pictures) > 2:
            raise PictureError(f"the names of these {len(pictures)} pictures do not match: {_RULE}.")
        first, second = (load_picture(path, role) for path, role in zip(pictures, HALVES[0], strict=True))
        pair = FormPair(shown(pictures[0].stem))
        pair.put(original=first, target=second)
        return [pair], [], []


def _copied(files: Sequence[Path], folder: Path) -> list[Path]:
    """Copies in one folder, or, where each name is there twice, in its folders original and target."""
    names = Counter(path.name for path in files)
    is_twofold = bool(names) and set(names.values()) == {2}
    copies: list[Path] = []
    for path in files:
        place = folder / HALVES[0][(folder / HALVES[0][0] / path.name) in copies] if is_twofold else folder
        place.mkdir(exist_ok=True)
        copies.append(place / path.name)
        shutil.copyfile(path, copies[-1])
    return copies


def _pictures(folder: Path) -> set[Path]:
    """The files that are pictures by their names, in the folder and in those in it."""
    listings = [Listing.of(place) for place in (folder, *Listing.of(folder).all_folders)]
    return {path for each in listings for path in (*each.pictures.values(), *each.masks.values())}
