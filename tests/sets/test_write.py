"""Drawn pairs as a set that is found again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lib_addift.data.pictures import load_picture
from lib_addift.drawn_pairs.decode import as_drawn
from lib_addift.errors import PictureError
from lib_addift.sets.find import find_set
from lib_addift.sets.write import contact_sheet, write_set
from tests.support.pictures import changed, scene


def drawn(number: int, *captions: str):
    picture = scene(128, 64, number)
    return as_drawn(picture, changed(picture, 16, 16, 24), captions, number)


def test_a_written_set_is_found_with_its_pictures_captions_and_settings(tmp_path: Path) -> None:
    pairs = [drawn(1, 'a "face", grün', 'a "face", grün'), drawn(2, "a man", "an old man"), drawn(3, "", "")]
    sheet = write_set(tmp_path / "sets" / "eyes", pairs)
    found = find_set(tmp_path / "sets" / "eyes")
    assert found.problem == ""
    assert len(found.pairs) == 3
    for source, pair in zip(found.pairs, pairs, strict=True):
        assert np.array_equal(np.asarray(load_picture(source.original, "original")), pair.original)
        assert np.array_equal(np.asarray(load_picture(source.target, "target")), pair.target)
        assert (source.original_prompt, source.target_prompt) == (pair.original_prompt, pair.target_prompt)
    config = found.config()
    assert config.mask == "off"
    assert config.preview_prompt == 'a "face", grün'
    assert sheet == tmp_path / "sets" / "eyes_pairs.png"
    assert load_picture(sheet, "sheet").width == 6 * 128


def test_more_than_99_pairs_stay_in_order(tmp_path: Path) -> None:
    write_set(tmp_path / "many", [drawn(number, "", "") for number in range(101)])
    names = [source.name for source in find_set(tmp_path / "many").pairs]
    assert len(names) == 101
    assert names == sorted(names)


@pytest.mark.parametrize("what", ["folder", "file"])
def test_nothing_that_is_there_is_replaced(tmp_path: Path, what: str) -> None:
    place = tmp_path / "eyes"
    if what == "folder":
        place.mkdir()
        (place / "mine.png").touch()
    else:
        place.touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PictureError, match="not empty"):
        write_set(place, [drawn(1, "", "")])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(_source: str, target: Path) -> None:
        if Path(target).name.endswith("_pairs.png"):
            raise OSError(28, "No space left on device")
        os.rename(_source, target)

    monkeypatch.setattr("lib_addift.files.os.replace", replace)
    with pytest.raises(PictureError, match="No space left"):
        write_set(tmp_path / "eyes", [drawn(1, "a", "b")])
    assert list(tmp_path.iterdir()) == []


def test_the_sheet_has_four_pairs_in_a_row_of_any_sizes() -> None:
    tall = as_drawn(scene(64, 128, 5), scene(64, 128, 6), ("", ""), 5)
    sheet = contact_sheet([tall, *(drawn(number, "", "") for number in range(4))])
    assert sheet.size == (8 * 128, 2 * (128 + 14))
    assert sheet.getpixel((5, 5)) == (255, 255, 255), "a tall picture stands in the middle of its square"
