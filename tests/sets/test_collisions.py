"""Names that collide: of sets, of pictures, of folders that are parts of a set. Nothing is left out in silence."""

from __future__ import annotations

import random
import sys
import unicodedata
from pathlib import Path

import pytest

from lib_addift.sets.find import PairSet, find_set, find_sets
from lib_addift.sets.names import name_key
from tests.support.sets import put

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="this file system takes the names for one")

NAMES = ["Eyes", "Été", "straße", "con", "a b", "Åse", "nul.x", "lora"]
ENDINGS = ["", ".", " ", "..", " .", ". ", "_"]


def variant(name: str, chance: random.Random) -> str:
    """The same name for some file system: in other capitals, another Unicode form, with dots and spaces behind it."""
    case = chance.choice([str.upper, str.lower, str.title, str])
    form = unicodedata.normalize(chance.choice(["NFC", "NFD"]), case(name))
    return chance.choice(["", "", "_"]) + form + chance.choice(ENDINGS)


def text_about(sets: list[PairSet]) -> str:
    return "\n".join(f"{each.folder.name}: {each.notes} {each.problem}" for each in sets)


def test_two_folders_that_differ_in_case_are_two_sets_and_the_second_says_why(tmp_path: Path) -> None:
    put(tmp_path, "Eyes/a.png", "Eyes/a_closed.png", "eyes/a.png", "eyes/a_closed.png")
    first, second = find_sets(tmp_path)
    assert (first.folder.name, first.problem) == ("Eyes", "")
    assert second.problem == (
        "its LoRA would be called 'eyes', as that of 'Eyes': write another name into addift.toml."
    )
    put(tmp_path / "eyes", addift_toml='name = "others"')
    assert [each.problem for each in find_sets(tmp_path)] == ["", ""]


@pytest.mark.parametrize("seed", range(40))
def test_each_folder_is_a_set_and_no_two_write_one_file(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folders = {variant(chance.choice(NAMES), chance) for _ in range(chance.randrange(2, 12))}
    for folder in folders:
        put(tmp_path / folder, "a.png", "a_x.png")
    sets = find_sets(tmp_path)
    assert {each.folder.name for each in sets} == folders, "one set for each folder"
    good = [each for each in sets if not each.problem]
    keys = [name_key(each.name) for each in good]
    assert len(keys) == len(set(keys)), "of one name one is trained"
    assert set(keys) == {name_key(each.name) for each in sets}, "and the others say why they are not"
    for each in sets:
        assert not each.problem or "write another name into addift.toml" in each.problem


@pytest.mark.parametrize("seed", range(40))
def test_each_picture_is_used_or_named(tmp_path: Path, seed: int) -> None:
    """Pictures, masks, texts and folders whose names are one to some file system."""
    chance = random.Random(seed)
    layout = chance.choice(["flat", "folders", "kohya"])
    names = [variant(chance.choice(NAMES[:3]), chance) for _ in range(chance.randrange(1, 5))]
    kinds = [".png", ".PNG", ".jpg", ".txt"]
    if layout == "flat":
        files = {f"{name}{end}{chance.choice(kinds)}" for name in names for end in ("", "_x", "_X")}
    else:
        halves = (
            ["original", "Original", "target", "Target", "mask"] if layout == "folders" else ["3_cat", "3_Cat", "reg"]
        )
        places = [half for half in halves if chance.random() < 0.8] or halves[:1]
        files = {f"{place}/{name}{chance.choice(kinds)}" for place in places for name in names}
    put(tmp_path, *files)
    found = find_set(tmp_path)
    used = {str(path) for pair in found.pairs for path in (pair.original, pair.target, pair.mask) if path}
    said = text_about([found])
    for file in files:
        path = tmp_path / file
        is_shown = any(part in said for part in (file, path.name, path.parent.name) if part != tmp_path.name)
        is_cut = " more" in said or found.problem
        assert str(path) in used or path.suffix == ".txt" or is_shown or is_cut, (file, said)
