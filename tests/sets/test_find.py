"""Folders of sets: what is found in them, and why something cannot be trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageFile

from lib_addift.config.settings import TrainConfig
from lib_addift.demo.world import Face, draw
from lib_addift.errors import ConfigError
from lib_addift.sets.find import find_set, find_sets
from tests.support.sets import files_of, put

# What cannot be trained, and why


PROBLEMS: dict[str, tuple[list[str], str, str]] = {
    "nothing": ([], "", "it holds no pictures: "),
    "one picture": (["a.png"], "", "no two pictures in it belong together"),
    "unlike names": (["open.png", "closed.png"], "", "no two pictures in it belong together"),
    "only numbers": (["1.png", "10.png", "11.png"], "", "no two pictures in it belong together"),
    "several endings": (["a.png", "a_x.png", "a_y.png"], "", "names end in '_x' or '_y': write suffix"),
    "a chain": (["a.png", "a_x.png", "a_x_x.png"], "", "names end in '_x' or '_x_x': write suffix"),
    "wrong suffix": (["a.png", "a_x.png"], 'suffix = "_y"', "a second time with '_y' behind it"),
    "half a set": (["Original/a.png"], "", "it has a folder 'original' and none called 'target'"),
    "other half": (["after/a.png"], "", "it has a folder 'after' and none called 'before'"),
    "two folders, no pair": (["original/a.png", "target/b.png"], "", "in 'original' has one in 'target' with the same"),
    "twins only": (["a.png", "a.jpg", "a_b.png"], "", "no two pictures"),
    "unknown key": (["a.png", "a_b.png"], "rnak = 8", "has 'rnak', which is no setting: did you mean 'rank'?"),
    "strange key": (["a.png", "a_b.png"], '"\\n" = 8', "has '?', which is no setting: 'python -m lib_addift settings'"),
    "out of bounds": (["a.png", "a_b.png"], "rank = 0", "rank = 0 is out of bounds"),
    "wrong type": (["a.png", "a_b.png"], 'align = "yes"', "align = 'yes' must be true or false"),
    "mask_file of a wrong type": (["a.png", "a_b.png"], "mask_file = 5", "mask_file = 5 must be text"),
    "unknown preset": (["a.png", "a_b.png"], 'preset = "x"', "preset 'x' does not exist"),
    "no TOML": (["a.png", "a_b.png"], "rank: 8", "is not TOML"),
    "a path of Windows": (["a.png", "a_b.png"], 'mask_file = "C:\\users"', "and / in paths"),
    "endless list": (["a.png", "a_b.png"], "rank = " + "[" * 100_000, "is not TOML"),
    "name of Windows": (["a.png", "a_b.png"], 'name = "con"', "is reserved by Windows"),
    "name not text": (["a.png", "a_b.png"], "name = 5", "name = 5: write text"),
    "empty name": (["a.png", "a_b.png"], 'name = ""', "name = '': write text"),
    "empty suffix": (["a.png", "a_b.png"], 'suffix = ""', "suffix = '': write text"),
    "overwrite": (["a.png", "a_b.png"], "overwrite = 1", "overwrite = 1: write true or false"),
    "weights": (["a.png", "a_b.png"], "weights = 2", "weights = 2: write a table"),
    "weight of nobody": (["a.png", "a_b.png"], "[weights]\nc = 2", "a weight for 'c', and no pair is called so"),
    "weight of nothing": (["a.png", "a_b.png"], "[weights]\na = 0", "a = 0 among its weights"),
    "no finite weight": (["a.png", "a_b.png"], "[weights]\na = nan", "a = nan among its weights"),
    "endless weight": (["a.png", "a_b.png"], "[weights]\na = inf", "a = inf among its weights"),
    "true weight": (["a.png", "a_b.png"], "[weights]\na = true", "a = True among its weights"),
    "name with a dot": (["a.1.png", "a.1_b.png"], "[weights]\na.1 = 2", "a name with a dot in quotes"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem_is_one_sentence_with_a_remedy(case: str, tmp_path: Path) -> None:
    names, text, reason = PROBLEMS[case]
    put(tmp_path, *names)
    if text:
        put(tmp_path, addift_toml=text)
    found = find_set(tmp_path)
    assert reason in found.problem
    assert "\n" not in found.problem
    assert found.problem.endswith((".", "?"))
    with pytest.raises(ConfigError, match="cannot be trained"):
        found.request()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    put(tmp_path, "file")
    for place in (tmp_path / "none", tmp_path / "file"):
        for found in (find_set(place), *find_sets(place)):
            assert found.problem == f"'{place}' is no folder: check the path."


# Names and settings of the LoRA


def test_a_folders_name_is_made_one_that_a_lora_can_have(tmp_path: Path) -> None:
    found = find_set(put(tmp_path / "smile, wide=2", "a.png", "a_b.png"))
    assert found.name == "smile_ wide_2"
    assert found.notes[-1] == "the LoRA is called 'smile_ wide_2', because it cannot be called as the folder"
    put(found.folder, addift_toml="name = 'smile'")
    assert find_set(found.folder).notes == ("1 pair: a.png with a_b.png",)


def test_the_folder_where_one_is_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "smile", "a.png", "a_b.png")
    monkeypatch.chdir(tmp_path / "smile")
    assert find_set(Path()).name == "smile"


# Folders of sets


def test_each_folder_is_a_set(tmp_path: Path) -> None:
    put(tmp_path, "b/x.png", "b/x_t.png", "A/original/x.png", "A/target/x.png", ".git/x.png", "empty/readme.md")
    put(tmp_path, "c/alone.png", "after/x.png", "__MACOSX/._a.png")
    sets = find_sets(tmp_path)
    assert [found.name for found in sets] == ["A", "b", "c"]
    assert [len(found.pairs) for found in sets] == [1, 1, 0]
    assert [bool(found.problem) for found in sets] == [False, False, True]
    assert sets[0].notes[-1] == (
        "folders beside it that are no sets (empty, or called as a part of one): __MACOSX, after, empty"
    )
    assert len(sets[1].notes) == 1


def test_a_folder_with_pairs_is_one_set(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a_b.png", "old/a.png", "old/a_b.png")
    (found,) = find_sets(tmp_path)
    assert found.folder == tmp_path
    assert found.notes == ("1 pair: a.png with a_b.png", "1 folder not used: old")


@pytest.mark.parametrize("names", [[], ["a.png"], ["original/a.png"], ["original/a.png", "target/b.png"], ["x/y.txt"]])
def test_a_folder_without_sets_says_why(names: list[str], tmp_path: Path) -> None:
    (found,) = find_sets(put(tmp_path, *names))
    assert found.folder == tmp_path
    assert found.problem


def test_one_broken_set_leaves_the_others(tmp_path: Path) -> None:
    put(tmp_path, "a/x.png", "a/x_b.png", "b/x.png", "b/x_b.png", "c/addift.toml")
    put(tmp_path / "a", addift_toml="rank =")
    sets = find_sets(tmp_path)
    assert [bool(found.problem) for found in sets] == [True, False, True]


def test_two_sets_with_one_name(tmp_path: Path) -> None:
    put(tmp_path, *(f"{folder}/{name}.png" for folder in "abc" for name in ("x", "x_b")))
    for folder, name in (("a", "Smile"), ("b", "smile")):
        put(tmp_path / folder, addift_toml=f"name = '{name}'")
    first, second, third = find_sets(tmp_path)
    assert first.problem == third.problem == ""
    assert second.problem == (
        "its LoRA would be called 'smile', as that of 'a': write another name into addift.toml."
    )  # fmt: skip


def test_the_order_is_by_name_whatever_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *(f"{folder}/{name}.png" for folder in "BcA" for name in ("x", "x_b", "W", "w_b")))
    listed = Path.iterdir
    orders = []
    for key in (str, lambda path: str(path)[::-1]):
        monkeypatch.setattr(Path, "iterdir", lambda path, key=key: iter(sorted(listed(path), key=key)))
        orders.append([(found.name, files_of(found)) for found in find_sets(tmp_path)])
        monkeypatch.undo()
    assert orders[0] == orders[1]
    assert [name for name, _ in orders[0]] == ["A", "B", "c"]
    assert [pair[0] for pair in orders[0][0][1]] == ["W.png", "x.png"]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/x.png", "a/x_b.png", "b/x.png", "b/x_b.png")
    listed = Path.iterdir

    def refusing(path: Path) -> Any:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    first, second = find_sets(tmp_path)
    assert first.problem == ""
    assert second.problem == f"'{tmp_path / 'b'}' cannot be read (Permission denied): check the folder."


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these systems have no such names")
def test_names_that_cannot_be_printed(tmp_path: Path) -> None:
    strange = "line\nbreak \udcff"
    found = find_set(put(tmp_path / strange, f"{strange}.png", f"{strange}_b.png", f"c{strange}.png"))
    assert found.pairs[0].name == "line?break ?"
    for text in (found.name, *found.notes):
        text.encode()
        assert "\n" not in text
    assert len(found.pairs) == 1


# Before training


def test_every_pair_is_examined_and_a_broken_picture_is_a_problem_of_its_own(tmp_path: Path) -> None:
    for name, eyes in (("a", "open"), ("a_b", "closed"), ("same", "open"), ("same_b", "open"), ("broken", "open")):
        draw(Face(eyes=eyes)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken_b.png").write_bytes((tmp_path / "broken.png").read_bytes()[:200])
    put(tmp_path, "empty.png", "empty_b.png")
    found = find_set(tmp_path)
    good, broken, empty, same = found.examine(TrainConfig())
    assert (good.name, good.size, good.problem) == ("a", (64, 64), "")
    assert "This is a good pair." in [finding.text for finding in good.findings]
    for check, reason in ((broken, "cannot be read"), (empty, "0 bytes"), (same, "identical")):
        assert reason in check.problem
        assert check.size is None
        assert check.findings == ()


def test_a_pairs_own_mask_is_examined(tmp_path: Path) -> None:
    for name, eyes in (("a", "open"), ("a_b", "closed"), ("a_mask", "open")):
        draw(Face(eyes=eyes)).resize((64, 64) if name != "a_mask" else (64, 128)).save(tmp_path / f"{name}.png")
    (check,) = find_set(tmp_path).examine(TrainConfig())
    assert "fits neither picture" in check.problem


# Steps


@pytest.mark.parametrize(
    ("pairs", "own", "base", "steps"),
    [
        (1, "", {}, 30),
        (1, "rank = 4", {}, 60),
        (2, "", {}, 42),
        (4, "", {}, 52),  # one is held out
        (4, "hold_out = false", {}, 60),
        (4, "hold_out = false", {"rank": 8}, 120),
        (9, "hold_out = false", {}, 90),
        (4, "max_train_steps = 70", {}, 70),
        (4, "", {"max_train_steps": 31}, 31),
        (4, 'method = "slider"', {}, 100),
    ],
)
def test_several_pairs_get_more_steps_unless_the_steps_are_given(
    pairs: int, own: str, base: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    names = [name for number in range(pairs) for name in (f"face{number}.png", f"face{number}_closed.png")]
    found = find_set(put(tmp_path / "eyes", *names, addift_toml=own), base)
    assert found.problem == ""
    assert found.request(base).config.max_train_steps == steps


def test_of_many_pairs_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        for name, eyes in ((f"{number}", "open"), (f"{number}_b", "closed")):
            draw(Face(eyes=eyes)).save(tmp_path / f"{name}.png")
    content = (tmp_path / "5_b.png").read_bytes()
    (tmp_path / "4_b.png").write_bytes(b"no picture")
    (tmp_path / "5_b.png").write_bytes(content[: len(content) // 2])
    found = find_set(tmp_path)
    decoded: list[object] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda each: (decoded.append(each), load(each))[1])
    checks = found.examine(TrainConfig(), look_into=2)
    assert len({id(each) for each in decoded}) == 4
    assert [bool(check.findings) for check in checks] == [True, True, False, False, False, False]
    assert [check.size for check in checks] == [(64, 64)] * 4 + [None, (64, 64)]
    assert "is not a picture" in checks[4].problem
    assert "cannot be read" in found.examine(TrainConfig())[5].problem
