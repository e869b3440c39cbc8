"""Pairs that the model draws into the form."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib_addift.drawn_pairs.pair import Drawing, DrawnPair
from lib_addift.ui import drawing
from lib_addift.ui.drawing import name_from_words
from tests.support.page import Page, pair


def drawn(seed: int) -> DrawnPair:
    """A pair as the model draws it."""
    original, target = (np.asarray(picture) for picture in pair())
    return DrawnPair(original, target, f"caption {seed}", f"caption {seed}", seed, 0.5, 0.5)


def wait(page: Page) -> None:
    for thread in [each for each in threading.enumerate() if each.name == "addift-pairs"]:
        thread.join(30)
    page.do("refresh")


WORDS = {"words_original": "a face, open eyes", "words_target": "a face, closed eyes", "words_count": 2}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a drawing was asked for; it gives two pairs, of which the second takes the place of another."""
    asked: list[dict[str, Any]] = []

    def draw(_host: object, **values: Any) -> Iterator[Drawing]:
        asked.append(values)
        first, worse, better = drawn(1), drawn(2), drawn(3)
        yield Drawing("drawing pairs", 0, 3)
        yield Drawing("drawing pairs", 2, 3, (first, worse))
        yield Drawing("drawing pairs", 3, 3, (first, better), 1)

    monkeypatch.setattr(drawing, "from_words", draw)
    monkeypatch.setattr(drawing, "vary", draw)
    return asked


def test_pairs_from_words_come_into_the_form_and_name_the_lora(page: Page, model: list[dict[str, Any]]) -> None:
    page.do("draw_words", **WORDS, resolution=64)
    wait(page)
    assert "2 pairs drawn; 1 of those drawn were not good enough" in page.shown["drawing"]
    assert [each.name for each in page.handlers.draft.pairs.items] == ["words 1", "words 3"]
    assert page.shown["pairs"].count("data-addift-row") == 2
    assert page.shown["name"] == "closed_eyes"
    assert page.shown["pair_caption"] == "caption 1"
    assert model[0]["settings"].width == 64
    page.do("pause")
    page.train(page.shown["name"])
    assert page.shown["alert"] == ""
    (job,) = page.handlers.jobs.queue()
    first = job.request.pairs[0]
    assert first.mask is not None, "drawn pairs are learnt everywhere"
    assert Image.open(first.mask).convert("L").getextrema() == (255, 255)  # type: ignore[arg-type]
    assert job.request.config.preview_prompt == "caption 1"


def test_a_name_that_was_typed_stays(page: Page, model: list[dict[str, Any]]) -> None:
    page.do("draw_words", **WORDS, name="mine")
    wait(page)
    assert (page.shown["name"], len(model)) == ("mine", 1)


def test_variations_stand_behind_the_persons_own_pair(page: Page, model: list[dict[str, Any]]) -> None:
    page.put_pair()
    page.do("draw_variations", vary_caption="a face", vary_count=4, resolution=64)
    wait(page)
    own, other = page.handlers.draft.pairs.items
    assert (own.is_drawn, other.is_drawn) == (False, True)
    assert page.handlers.draft.pairs.shown is own, "the slots keep what the person looks at"
    assert model[0]["own_prompt"] == "a face"


@pytest.mark.parametrize(
    ("button", "values", "sentence"),
    [
        ("draw_words", {**WORDS, "words_target": ""}, "Type both prompts"),
        ("draw_words", {**WORDS, "words_target": "a face,open eyes"}, "say the same"),
        ("draw_words", {**WORDS, "words_original": "{a"}, "brace"),
        ("draw_words", {**WORDS, "words_count": None}, "whole number"),
        ("draw_words", {**WORDS, "words_count": 500}, "at most 100"),
        ("draw_words", {**WORDS, "rank": 0}, "rank = 0"),
        ("draw_variations", {"vary_count": 2}, "no pair to vary"),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(page: Page, button: str, values: dict[str, Any], sentence: str) -> None:
    page.do(button, **values)
    assert sentence in page.shown["alert"]
    assert not page.handlers.drawing.task.is_busy


def test_a_drawing_can_be_stopped_and_says_how_long_it_takes(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    is_seen = threading.Event()

    def draw(_host: object, **_values: Any) -> Iterator[Drawing]:
        for number in range(1, 5):
            yield Drawing("drawing pairs", number, 4, tuple(drawn(each) for each in range(number)))
            assert is_seen.wait(30)

    monkeypatch.setattr(drawing, "from_words", draw)
    page.do("draw_words", **WORDS)
    while page.handlers.drawing.done < 1:
        threading.Event().wait(0.01)
    page.do("refresh")
    assert 'aria-valuenow="25"' in page.shown["drawing"]
    assert 'data-addift-active="1"' in page.shown["drawing"]
    assert page.shown["stop_drawing is visible"]
    assert not page.shown["draw_words is visible"]
    page.do("stop_drawing")
    is_seen.set()
    wait(page)
    assert page.handlers.drawing.done < 4
    assert not page.shown["stop_drawing is visible"]


def test_a_failed_drawing_says_why(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(_host: object, **_values: Any) -> Iterator[Drawing]:
        raise ZeroDivisionError("so")
        yield

    monkeypatch.setattr(drawing, "from_words", draw)
    page.do("draw_words", **WORDS)
    wait(page)
    assert "ZeroDivisionError: so" in page.shown["drawing"]


@pytest.mark.slow
def test_the_real_functions_draw_with_the_fake_model(page: Page) -> None:
    page.put_pair()
    page.do("draw_variations", vary_caption="", vary_count=1, resolution=64)
    wait(page)
    assert page.handlers.drawing.task.error == ""
    assert page.handlers.drawing.done == 4


def test_a_name_is_made_of_the_new_words() -> None:
    assert (
        name_from_words("a photo of a {man|woman}, open eyes", "a photo of a {man|woman}, closed eyes") == "closed_eyes"
    )
    assert name_from_words("a face, open eyes, closed mouth", "a face, closed eyes, closed mouth") == "closed_eyes"
    assert name_from_words("a face", "a face, blond hair!") == "blond_hair"
    assert name_from_words("a face", "a/b") == "a_b"
    assert name_from_words("a face", "a face") == ""
    assert name_from_words("{a", "b") == ""
