"""Folders with a number and a word, as kohya's trainer has them."""

from __future__ import annotations

from pathlib import Path

from lib_addift.demo.world import Face, draw
from lib_addift.sets.find import find_sets
from tests.support.sets import put


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
