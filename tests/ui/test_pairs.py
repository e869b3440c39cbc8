"""The form's pairs: files matched by name, cards, captions and masks, and what a training gets of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_addift.demo import world
from lib_addift.errors import PictureError
from lib_addift.ui.pair_files import pairs_of
from tests.support.page import NASTY, QUICK, Page, pair

HAIRS = ("black", "blond", "red")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pairs by name, with a caption and a mask for one of them, and a picture that belongs to none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for hair in HAIRS:
        world.draw(world.Face(hair=hair)).save(folder / f"{hair}.png")
        world.draw(world.Face(hair=hair, eyes="closed")).save(folder / f"{hair}_target.png")
    (folder / "red.txt").write_text("a face with red hair", encoding="utf-8")
    Image.new("L", (64, 64), 128).save(folder / "red_mask.png")
    world.draw(world.Face(mouth="open")).save(folder / "other.png")
    return folder


def keys(page: Page) -> list[str]:
    """The pairs of the form, in order."""
    return [each.key for each in page.handlers.draft.pairs.items]


def drop(page: Page, *files: Path) -> None:
    page.do("add_files", files=[str(file) for file in files])


# Files.


def test_files_are_matched_by_name_with_captions_and_masks(folder: Path) -> None:
    pairs, singles, notes = pairs_of(sorted(folder.iterdir()))
    assert [each.name for each in pairs] == sorted(HAIRS)
    assert [each.caption for each in pairs] == ["", "", "a face with red hair"]
    assert [each.pictures["pair_mask"] is not None for each in pairs] == [False, False, True]
    assert singles == []
    assert len(notes) == 1
    assert "other.png" in notes[0]


def test_two_files_without_matching_names_are_a_pair_in_their_order(folder: Path) -> None:
    (made,), _, _ = pairs_of([folder / "other.png", folder / "black.png"])
    assert made.pictures["original"] is not None
    assert np.array_equal(made.pictures["original"], world.draw(world.Face(mouth="open")))


def test_files_of_one_name_from_two_folders_are_pairs(folder: Path) -> None:
    files = []
    for place, ending in (("one", ""), ("two", "_target")):
        (folder / place).mkdir()
        for hair in HAIRS:
            files.append((folder / f"{hair}{ending}.png").rename(folder / place / f"{hair}.png"))
    pairs, _, _ = pairs_of(files)
    assert [each.name for each in pairs] == sorted(HAIRS)
    assert np.array_equal(pairs[0].pictures["target"], world.draw(world.Face(hair="black", eyes="closed")))


def test_files_that_make_no_pair_are_refused_with_the_rule(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="_target behind it"):
        pairs_of([folder / f"{hair}.png" for hair in HAIRS])
    note = tmp_path / "note.txt"
    note.write_text("x", encoding="utf-8")
    with pytest.raises(PictureError, match="no picture"):
        pairs_of([note])
    broken = [tmp_path / "a.png", tmp_path / "a_target.png"]
    for path in broken:
        path.write_bytes(b"no picture")
    with pytest.raises(PictureError, match="'a' cannot be read"):
        pairs_of(broken)


# In the form.


def test_many_files_become_cards_with_the_doctors_lines(page: Page, folder: Path) -> None:
    drop(page, *folder.iterdir())
    page.do("refresh")
    assert page.shown["files"] is None, "the box is free for the next ones"
    assert page.shown["pairs"].count("data-addift-row") == 3
    assert "3 of 3 pairs are ticked" in page.shown["pairs"]
    assert page.shown["pairs"].count("This is a good pair.") == 3
    assert "other.png" in page.shown["pairs"]
    assert all(key in page.shown["pairs_faces"] for key in keys(page))
    assert page.shown["original"].size == (64, 64)
    assert page.shown["shown_pair"] == keys(page)[0]


def test_one_pair_of_files_fills_the_slots_and_shows_no_list(page: Page, folder: Path) -> None:
    drop(page, folder / "black.png", folder / "black_target.png")
    assert "addift-pairs" not in page.shown["pairs"]
    assert "This is a good pair." in page.shown["doctor"]
    assert len(keys(page)) == 1


def test_single_pictures_go_into_the_next_empty_slot(page: Page, folder: Path) -> None:
    drop(page, folder / "black.png")
    assert "the target" in page.shown["doctor"]
    drop(page, folder / "black_target.png")
    assert "This is a good pair." in page.shown["doctor"]
    drop(page, folder / "red.png")
    assert len(keys(page)) == 2, "a third picture begins another pair"
    assert page.shown["target"] is None


def test_a_card_can_be_edited_swapped_unticked_and_removed(page: Page, folder: Path) -> None:
    drop(page, *folder.iterdir())
    first, second, third = keys(page)
    page.do("press_row_button", act=f"pair_show {third}")
    assert page.shown["shown_pair"] == third
    assert page.shown["pair_caption"] == "a face with red hair"
    original = page.shown["original"]
    page.do("press_row_button", act=f"pair_swap {third}")
    assert np.array_equal(page.shown["target"], original)
    page.do("press_row_button", act=f"pair_tick {second}")
    assert "2 of 3 pairs are ticked" in page.shown["pairs"]
    page.do("press_row_button", act=f"pair_remove {third}")
    assert keys(page) == [first, second]
    assert page.shown["shown_pair"] == second
    page.do("press_row_button", act=f"pair_remove {third}")
    assert "gone" in page.shown["alert"]


def test_a_late_answer_about_a_slot_does_not_reach_another_pair(page: Page, folder: Path) -> None:
    drop(page, *folder.iterdir())
    first, second, _ = page.handlers.draft.pairs.items
    before = dict(second.digests)
    late = {**page.shown, "original": pair()[1]}
    page.do("press_row_button", act=f"pair_show {second.key}")
    page.handlers.take_pictures({name: late[name] for name in ("original", "shown_pair", "seen")})
    page.handlers.keep_draft({**late, "pair_caption": "for the first"})
    assert second.digests == before
    assert np.array_equal(first.pictures["original"], pair()[1])
    assert (first.caption, second.caption) == ("for the first", "")


def test_a_reload_brings_the_pairs_back(page: Page, folder: Path) -> None:
    drop(page, *folder.iterdir())
    page.do("press_row_button", act=f"pair_show {keys(page)[2]}")
    again = Page(page.handlers)
    for name in ("shown_pair", "pair_caption", "pairs"):
        assert again.shown[name] == page.shown[name]
    assert np.array_equal(again.shown["pair_mask"], page.shown["pair_mask"])


def test_what_a_person_types_is_escaped_in_the_cards(page: Page, folder: Path) -> None:
    drop(page, *folder.iterdir())
    page.do("keep_draft", pair_caption=NASTY)
    assert "<img src=x" not in page.shown["pairs"]
    assert "onerror" in page.shown["pairs"]


def test_another_pair_can_be_begun_by_hand(page: Page) -> None:
    page.put_pair()
    page.do("new_pair")
    assert page.shown["original"] is None
    assert len(keys(page)) == 2
    page.do("new_pair")
    assert len(keys(page)) == 2, "one empty pair is enough"
    page.train("x")
    assert "pair 2" in page.shown["alert"]
    assert "has no original" in page.shown["alert"]


# Training.


def test_a_training_gets_the_ticked_pairs_with_captions_and_masks(page: Page, folder: Path) -> None:
    page.do("pause")
    drop(page, *folder.iterdir())
    page.do("press_row_button", act=f"pair_tick {keys(page)[0]}")
    page.train("x", seed=3)
    assert page.shown["alert"] == ""
    (job,) = page.handlers.jobs.queue()
    blond, red = job.request.pairs
    assert (blond.name, red.name) == ("blond", "red")
    assert red.original_prompt == red.target_prompt == "a face with red hair"
    assert (blond.mask, red.mask is not None) == (None, True)
    assert job.request.config.max_train_steps == QUICK["max_train_steps"], "as the form says"


def test_several_pairs_get_more_steps_unless_the_form_says_how_many(page: Page, folder: Path) -> None:
    page.do("pause")
    drop(page, *folder.iterdir())
    page.do("train", name="x")
    (job,) = page.handlers.jobs.queue()
    assert job.request.config.max_train_steps == round(30 * 3**0.5)


def test_without_a_ticked_pair_nothing_is_trained(page: Page, folder: Path) -> None:
    drop(page, *folder.iterdir())
    for key in keys(page):
        page.do("press_row_button", act=f"pair_tick {key}")
    page.train("x")
    assert "No pair is ticked" in page.shown["alert"]
    page.do("press_row_button", act=f"pair_tick {keys(page)[0]}")
    assert page.shown["alert"] == ""
