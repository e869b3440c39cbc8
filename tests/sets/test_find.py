"""Folders of pairs: what belongs together is found by name, nothing is paired wrongly, and the rest is explained."""

from __future__ import annotations

import sys
import tempfile
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_addift.config.settings import TrainConfig
from lib_addift.config.text import read_toml
from lib_addift.data.pairs import PairSource
from lib_addift.demo.world import Face, draw
from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.lora.file import check_name
from lib_addift.sets.find import PairSet, find_set, find_sets
from lib_addift.sets.names import find_rule, match, name_key, safe_name


def put(folder: Path, *names: str, **texts: str) -> Path:
    """Files without contents, for only their names matter, and files of text as NAME_txt or NAME_toml."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, text in texts.items():
        stem, _, kind = name.rpartition("_")
        (folder / f"{stem}.{kind}").write_text(text, encoding="utf-8")
    return folder


def files_of(found: PairSet) -> list[tuple[str, str]]:
    """The names of each pair's files, seen from the set's folder."""
    return [(seen(pair.original, found), seen(pair.target, found)) for pair in found.pairs]


def seen(source: Any, found: PairSet) -> str:
    return Path(source).relative_to(found.folder).as_posix()


# Pairs in one folder

ONE_FOLDER: dict[str, tuple[list[str], list[tuple[str, str]]]] = {
    "one pair": (["a.png", "a_closed.png"], [("a.png", "a_closed.png")]),
    "any format": (["a.JPG", "a-x.webp", "b.tiff", "b-x.AVIF"], [("a.JPG", "a-x.webp"), ("b.tiff", "b-x.AVIF")]),
    "capitals": (["Face.png", "face_B.png"], [("Face.png", "face_B.png")]),
    "a name in another": (
        ["face.png", "face_closed.png", "face_two.png", "face_two_closed.png"],
        [("face.png", "face_closed.png"), ("face_two.png", "face_two_closed.png")],
    ),
    "numbers": (
        ["1.png", "10.png", "100.png", "1x.png", "10x.png", "100x.png"],
        [("1.png", "1x.png"), ("10.png", "10x.png"), ("100.png", "100x.png")],
    ),
    "a number is not an ending": (["1.png", "10_b.png", "1_b.png"], [("1.png", "1_b.png")]),
    "most partners": (
        ["a.png", "a_x.png", "b.png", "b_x.png", "c.png", "c_y.png"],
        [("a.png", "a_x.png"), ("b.png", "b_x.png")],
    ),
    "usual ending wins": (["a.png", "a_old.png", "a_target.png"], [("a.png", "a_target.png")]),
    "both have an ending": (
        ["a_before.png", "a_after.png", "b_before.png", "b_after.png"],
        [("a_before.png", "a_after.png"), ("b_before.png", "b_after.png")],
    ),
    "only endings": (["original.png", "target.jpg"], [("original.png", "target.jpg")]),
    "hidden and other files": (["a.png", "a_b.png", ".a_c.png", "._a.png", "Thumbs.db"], [("a.png", "a_b.png")]),
    "a mask is no target": (["a.png", "a_b.png", "a_mask.png"], [("a.png", "a_b.png")]),
    "a worn mask": (["gas_mask.png", "gas_mask_b.png"], [("gas_mask.png", "gas_mask_b.png")]),
    "dots": (["v1.5 face.png", "v1.5 face.after.png"], [("v1.5 face.png", "v1.5 face.after.png")]),
}


@pytest.mark.parametrize("case", ONE_FOLDER)
def test_pairs_in_one_folder(case: str, tmp_path: Path) -> None:
    names, expected = ONE_FOLDER[case]
    found = find_set(put(tmp_path, *names))
    assert found.problem == ""
    assert files_of(found) == expected
    assert [pair.name for pair in found.pairs] == [Path(original).stem for original, _ in expected]


def test_a_suffix_in_the_settings_decides(tmp_path: Path) -> None:
    names = ["a.png", "a_target.png", "a_open.png", "b.png", "b_target.png"]
    found = find_set(put(tmp_path, *names, addift_toml='suffix = "_OPEN"'))
    assert files_of(found) == [("a.png", "a_open.png")]
    assert "3 pictures without a partner: a_target.png, b.png, b_target.png" in found.notes


def test_a_chain_of_endings_is_not_paired_twice(tmp_path: Path) -> None:
    found = find_set(put(tmp_path, "a.png", "a_x.png", "a_x_x.png", addift_toml='suffix = "_x"'))
    assert files_of(found) == [("a.png", "a_x.png")]
    assert found.notes[1] == "1 picture without a partner: a_x_x.png"


def test_a_target_may_be_called_mask_when_the_settings_say_so(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a_mask.png", "a_mask.mask.png", addift_toml='suffix = "_mask"')
    found = find_set(tmp_path)
    assert files_of(found) == [("a.png", "a_mask.png")]
    assert found.pairs[0].mask == tmp_path / "a_mask.mask.png"


def test_accents_stored_in_two_ways_are_one_name(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Zoë 笑顔") for form in ("NFC", "NFD"))
    found = find_set(put(tmp_path, f"{composed}.png", f"{decomposed}_b.png"))
    assert len(found.pairs) == 1
    assert found.problem == ""


PARTS = st.text("ab1é笑 ", min_size=1, max_size=4).map(lambda text: f"n{text.strip()}n")
ENDINGS = st.text("abc12ß", min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(names=st.sets(PARTS, min_size=1, max_size=8), ending=ENDINGS, separator=st.sampled_from("_-."))
def test_every_pair_is_found_and_no_other(names: set[str], ending: str, separator: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = put(Path(place), *(name + end for name in names for end in (".png", f"{separator}{ending}.jpg")))
        found = find_set(folder)
        expected = {(f"{name}.png", f"{name}{separator}{ending}.jpg") for name in names}
        assert found.problem == ""
        assert set(files_of(found)) == expected
        assert len(found.pairs) == len(expected)


@settings(max_examples=300, deadline=None)
@given(st.sets(st.text("ab_1", min_size=1, max_size=6), min_size=2, max_size=12), st.text("ab_1", min_size=1))
def test_nothing_is_paired_twice_whatever_the_names(names: set[str], ending: str) -> None:
    paths = {name: Path(f"{name}.png") for name in names}
    matches = match(paths, paths, ("", ending))
    used = [name for pair in matches for name in pair]
    assert len(used) == len(set(used))
    assert all(target == original + ending for original, target in matches)
    left = names - set(used)
    assert not any(name + ending in left for name in left)


def test_a_name_in_a_thousand_others_takes_no_time_for_each() -> None:
    names = ["a", *(f"a{chr(0x4E00 + index)}" for index in range(2000))]
    paths = {name + end: Path(name + end) for name in names for end in ("", "_closed")}
    began = time.process_time()
    assert find_rule(paths) == ("", "_closed")
    assert time.process_time() - began < 2  # s; with a try for each name it takes more than five


# Pairs in two folders


@pytest.mark.parametrize(("first", "second"), [("original", "target"), ("Original", "TARGET"), ("before", "after")])
def test_pairs_in_two_folders(first: str, second: str, tmp_path: Path) -> None:
    put(tmp_path, f"{first}/A.png", f"{second}/a.webp", f"{first}/b.jpg", f"{second}/B.png", f"{first}/c.png")
    found = find_set(tmp_path)
    assert files_of(found) == [(f"{first}/A.png", f"{second}/a.webp"), (f"{first}/b.jpg", f"{second}/B.png")]
    assert found.notes == (
        f"2 pairs, such as {first}/A.png with {second}/a.webp",
        f"1 picture without a partner: {first}/c.png",
    )
    assert found.problem == ""


def test_two_folders_with_a_suffix(tmp_path: Path) -> None:
    put(tmp_path, "original/a.png", "target/a_x.png", "target/a.png", addift_toml='suffix = "_x"')
    assert files_of(find_set(tmp_path)) == [("original/a.png", "target/a_x.png")]


def test_two_folders_go_before_loose_files(tmp_path: Path) -> None:
    found = find_set(put(tmp_path, "original/a.png", "target/a.png", "b.png", "b_x.png"))
    assert files_of(found) == [("original/a.png", "target/a.png")]
    assert "2 pictures without a partner: b.png, b_x.png" in found.notes


# Captions, masks and weights


def test_captions_in_one_folder(tmp_path: Path) -> None:
    put(tmp_path, *(name + end for name in "abcd" for end in (".png", "_x.png")))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf a girl,\r\n\r\nred  hair \r\n")
    put(tmp_path, b_txt="both", b_x_txt="eyes closed", c_x_txt="for the target", other_txt="x", d_txt=" \n")
    found = find_set(tmp_path)
    prompts = [(pair.original_prompt, pair.target_prompt) for pair in found.pairs]
    assert prompts == [
        ("a girl, red  hair", "a girl, red  hair"), ("both", "eyes closed"), ("", "for the target"), ("", ""),
    ]  # fmt: skip
    assert found.notes[1:] == ("captions for 3 of 4", "1 text of no pair: other.txt")


@pytest.mark.parametrize("form", ["original/{}{}", "{}_original{}"])
def test_captions_where_each_has_a_name_of_its_own(form: str, tmp_path: Path) -> None:
    forms = form, form.replace("original", "target")
    put(tmp_path, *(each.format(name, ".png") for each in forms for name in "abc"))
    for place, text in ((forms[0].format("a", ".txt"), "first"), (forms[1].format("a", ".txt"), "second"),
                        (forms[0].format("b", ".txt"), "only"), (forms[1].format("c", ".TXT"), "one")):  # fmt: skip
        (tmp_path / place).write_text(text)
    prompts = [(pair.original_prompt, pair.target_prompt) for pair in find_set(tmp_path).pairs]
    assert prompts == [("first", "second"), ("only", "only"), ("one", "one")]


def test_a_caption_that_is_no_text_is_the_sets_problem(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a_b.png", "b.png", "b_b.png")
    (tmp_path / "b.txt").write_text("smile", encoding="utf-16")
    found = find_set(tmp_path)
    assert found.problem.startswith("the caption 'b.txt' is not text in UTF-8")
    assert len(found.pairs) == 2


MASKS = {
    "beside the original": ("a.png", "a_x.png", "a_mask.png"),
    "with a dot": ("a.png", "a_x.png", "A.mask.PNG"),
    "beside the target": ("a.png", "a_x.png", "a_x.mask.png"),
    "in a folder": ("a.png", "a_x.png", "Mask/a.png"),
    "in a folder, as the target": ("a.png", "a_x.png", "mask/a_x.webp"),
    "in a folder, called so": ("a.png", "a_x.png", "mask/a_mask.png"),
    "with two folders": ("original/a.png", "target/a.png", "mask/a.png"),
    "in one of two folders": ("original/a.png", "target/a.png", "target/a_mask.png"),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks(case: str, tmp_path: Path) -> None:
    found = find_set(put(tmp_path, *MASKS[case]))
    assert len(found.pairs) == 1
    assert seen(found.pairs[0].mask, found) == MASKS[case][-1]
    assert found.notes[1:] == ("masks for 1 of 1",)


def test_masks_of_no_pair_are_named(tmp_path: Path) -> None:
    found = find_set(put(tmp_path, "a.png", "a_b.png", "c.png", "c_mask.png", "mask/d.png"))
    assert found.pairs[0].mask is None
    assert found.notes[1:] == ("1 picture without a partner: c.png", "2 masks of no pair: c_mask.png, mask/d.png")


def test_weights(tmp_path: Path) -> None:
    put(tmp_path, "Face.1.png", "Face.1_b.png", "c.png", "c_b.png", addift_toml='[weights]\n"face.1" = 2\n')
    assert [(pair.name, pair.weight) for pair in find_set(tmp_path).pairs] == [("c", 1.0), ("Face.1", 2.0)]


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
    "wrong type": (["a.png", "a_b.png"], 'mirror = "yes"', "mirror = 'yes' must be true or false"),
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


def test_settings_that_are_no_text_or_no_file(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.png", "a_b.png")
    (tmp_path / "one" / "addift.toml").write_bytes(b"name = '\xff'")
    (tmp_path / "two" / "Addift.TOML").mkdir(parents=True)
    first, second = find_sets(tmp_path)
    assert "is not TOML" in first.problem
    assert "cannot be read" in second.problem


def test_toml_with_a_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfrank = 8\r\nprompt = 'a'\r\n")
    assert read_toml(tmp_path / "x.toml") == {"rank": 8, "prompt": "a"}


def test_a_python_without_toml_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", "a_b.png", addift_toml="rank = 8")
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    assert "install tomli" in find_set(tmp_path).problem


def test_twins_are_both_left_out(tmp_path: Path) -> None:
    found = find_set(put(tmp_path, "a.png", "a_b.png", "c.jpg", "c.png", "c_b.png"))
    assert files_of(found) == [("a.png", "a_b.png")]
    assert found.notes[1:] == (
        "c.jpg, c.png: one name, so none of them is used; rename or delete all but one",
        "1 picture without a partner: c_b.png",
    )


def test_long_lists_are_cut(tmp_path: Path) -> None:
    found = find_set(put(tmp_path, "a.png", "a_b.png", *(f"{n}.png" for n in range(1, 9))))
    assert found.notes[1] == "8 pictures without a partner: 1.png, 2.png, 3.png, 4.png, 5.png and 3 more"


# Names and settings of the LoRA


def test_settings_of_a_set_go_before_those_of_all(tmp_path: Path) -> None:
    text = 'name = "closed"\npreset = "detail"\nrank = 8\noverwrite = false\nmask = "file"\nmask_file = "m.png"'
    found = find_set(put(tmp_path, "a.png", "a_b.png", "m.png", addift_toml=text))
    assert found.problem == ""
    assert found.notes == ("1 pair: a.png with a_b.png",)
    request = found.request({"preset": "style", "rank": 2, "seed": 7}, overwrite=True)
    config = request.config
    assert (request.name, request.overwrite, request.pairs) == ("closed", False, found.pairs)
    assert (config.strength, config.rank, config.seed) == (2.0, 8, 7)
    assert config.mask_file == str(tmp_path / "m.png")


def test_without_settings_a_set_is_as_all(tmp_path: Path) -> None:
    found = find_set(put(tmp_path / "Closed eyes", "a.png", "a_b.png"))
    request = found.request(overwrite=True)
    assert (request.name, request.overwrite, request.config) == ("Closed eyes", True, TrainConfig.create())
    assert request.pairs == (PairSource(found.folder / "a.png", found.folder / "a_b.png", "a"),)


def test_settings_that_contradict_those_of_all_are_a_problem(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a_b.png", addift_toml="min_timestep = 900")
    assert find_set(tmp_path).problem == ""
    assert "leave no room" in find_set(tmp_path, {"max_timestep": 600}).problem
    assert "leave no room" in find_sets(tmp_path, {"max_timestep": 600})[0].problem
    with pytest.raises(ConfigError, match="leave no room"):
        find_set(tmp_path).request({"max_timestep": 600})


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


HARD = ["con", "Con.x", "lpt1", "COM¹ ", "a:b", "a\nb", ". .", "...", "", "x.safetensors", "x.SAFETENSORS. ", "\ud83d"]
HARD += [".safetensors", "笑" * 90, "n" * 300, "con" * 60, "aux." + "n" * 96, "a,b=c", "\u2028", "smile."]


@pytest.mark.parametrize("text", HARD)
def test_hard_names_are_made_safe(text: str) -> None:
    assert check_name(safe_name(text)) != text


@settings(max_examples=500)
@given(st.text(max_size=120) | st.text("con. \u3000:<aux1safetensors", max_size=110))
def test_any_name_is_made_safe_and_a_safe_one_is_kept(text: str) -> None:
    name = safe_name(text)
    assert check_name(name) == safe_name(name) == name
    try:
        assert name == check_name(text)
    except LoraFileError:
        assert name != text


@given(st.text(max_size=20))
def test_a_names_key_is_the_same_for_all_its_forms(text: str) -> None:
    assert name_key(unicodedata.normalize("NFD", text)) == name_key(unicodedata.normalize("NFC", text))


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


def test_settings_belong_into_the_folder_of_one_set(tmp_path: Path) -> None:
    put(tmp_path, "x/a.png", "x/a_b.png", addift_toml="rank = 8")
    (found,) = find_sets(tmp_path)
    assert found.folder == tmp_path
    assert "it holds no pictures" in found.problem
    assert found.notes == ("1 folder not used: x",)


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


# Sets of single pictures.


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(Face()).save(path)


def test_folders_with_a_number_are_pictures_of_a_word(tmp_path: Path) -> None:
    for name in ("10_cat/a", "10_cat/b", "3_dog/c", "reg/1_animal/d", "reg/e"):
        picture(tmp_path / "set" / f"{name}.png")
    (tmp_path / "set" / "10_cat" / "a.txt").write_text("a black cat")
    (found,) = find_sets(tmp_path / "set")
    assert found.problem == ""
    assert found.config().method == "lora"
    assert [(p.name, p.repeats, p.target_prompt, p.is_prior) for p in found.pairs] == [
        ("a", 10, "a black cat", False),
        ("b", 10, "cat", False),
        ("c", 3, "dog", False),
        ("e", 1, "", True),
        ("d", 1, "animal", True),
    ]
    assert all(pair.is_single for pair in found.pairs)
    assert found.notes[:3] == (
        "2 pictures of 'cat', seen 10 times each",
        "1 picture of 'dog', seen 3 times each",
        "2 regularisation pictures",
    )
    assert [check.problem for check in found.examine(found.config())] == [""] * 5


def test_single_pictures_and_a_method_for_pairs(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "10_cat" / "a.png")
    (tmp_path / "set" / "addift.toml").write_text('method = "addift"')
    (found,) = find_sets(tmp_path / "set")
    assert "'a' is a single picture" in found.problem


def test_a_folder_with_a_number_and_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "set" / "10_cat").mkdir(parents=True)
    (found,) = find_sets(tmp_path / "set")
    assert "hold no pictures" in found.problem


def test_numbered_sets_of_pairs_are_sets(tmp_path: Path) -> None:
    for number, name in enumerate(("eyes", "mouth"), 1):
        put(tmp_path / f"{number}_{name}", f"{name}.png", f"{name}_target.png")
    assert [(found.name, len(found.pairs), found.problem) for found in find_sets(tmp_path)] == [
        ("1_eyes", 1, ""),
        ("2_mouth", 1, ""),
    ]


def test_pictures_whose_names_are_alike_by_chance_are_pictures(tmp_path: Path) -> None:
    put(tmp_path / "5_cat", "cat.png", "cat_2.png")
    (found,) = find_sets(tmp_path)
    assert [pair.is_single for pair in found.pairs] == [True, True]


def test_a_numbered_folder_with_settings_of_its_own_is_a_set(tmp_path: Path) -> None:
    put(tmp_path / "5_cat", "cat.png", "cat_2.png")
    (tmp_path / "5_cat" / "addift.toml").write_text("rank = 8")
    assert [found.name for found in find_sets(tmp_path)] == ["5_cat"]


# Steps


@pytest.mark.parametrize(
    ("pairs", "own", "base", "steps"),
    [
        (1, "", {}, 60),
        (2, "", {}, 85),
        (4, "", {}, 104),  # one is held out
        (4, "hold_out = false", {}, 120),
        (9, "hold_out = false", {}, 180),
        (4, "max_train_steps = 60", {}, 60),
        (4, "", {"max_train_steps": 30}, 30),
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
