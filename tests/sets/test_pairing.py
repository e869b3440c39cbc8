"""What belongs together is found by name, nothing is paired wrongly, and the rest is told."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_addift.sets.find import find_set
from tests.support.sets import files_of, put, seen

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


# What is left out


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
