"""Panels as HTML: what is escaped, and texts for people."""

from __future__ import annotations

from PIL import Image

from lib_addift.ui import render
from tests.support.page import NASTY


def test_nothing_that_a_person_types_becomes_html_or_a_template() -> None:
    shown = render.escape(NASTY)
    assert not set(shown) & set("<>\"'${}@")
    assert render.escape("plain") == "plain"


def test_a_sentence_has_a_capital_and_a_full_stop_but_settings_keep_their_names() -> None:
    assert render.sentence("the name is taken") == "The name is taken."
    assert render.sentence("rank = 0 is bad.") == "rank = 0 is bad."
    assert render.sentence("finished: saved") == "Finished: saved."
    assert render.sentence("") == ""


def test_pictures_travel_inside_the_page() -> None:
    small, large = Image.new("RGB", (64, 64)), Image.new("RGB", (2560, 526))
    assert 'src="data:image/png;base64,' in render.picture(small, "small", "strip")
    assert 'src="data:image/jpeg;base64,' in render.picture(large, "large", "strip")


def test_time_left_is_in_plain_words() -> None:
    assert render.time_left(None) == ""
    assert render.time_left(0.2) == "about 1 s left"
    assert render.time_left(240) == "about 4 min left"
