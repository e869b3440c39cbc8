"""The panels: what is sent, and when."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops

from lib_addift.data.checks import Finding
from lib_addift.ui import render, result_view
from lib_addift.ui.form import FORM
from lib_addift.ui.panels import PANELS
from tests.support.page import NASTY, Page, pair, wait


def test_every_panel_escapes(page: Page) -> None:
    finding = Finding("warning", NASTY)
    picture = Image.new("RGB", (64, 64))
    for html in (render.error(NASTY), render.note(NASTY), render.doctor([finding], picture)):
        assert "<img src=x" not in html
        assert "${" not in html
    assert "<img src=x" not in result_view.grid(None, NASTY, NASTY, is_running=False)
    page.do("train", name=NASTY)
    page.do("keep_draft", name=NASTY)
    assert "<img src=x" not in "".join(map(str, page.shown.values())).replace(NASTY, "")


def test_a_new_page_is_welcomed(page: Page) -> None:
    assert "From two pictures" in page.shown["progress"]
    assert "put in two pictures" in page.shown["doctor"].lower()
    assert page.shown["preset"] == "concept"
    assert set(page.changed) >= {*FORM, *PANELS} - {"files"}


def test_a_refresh_without_news_changes_nothing(trained: Page) -> None:
    assert trained.do("refresh") == {}


def test_the_doctor_looks_as_soon_as_both_pictures_are_in(page: Page) -> None:
    original, target = pair()
    page.do("take_pictures", original=original, target=None)
    assert "the target" in page.shown["doctor"]
    page.do("take_pictures", original=original, target=target)
    assert "This is a good pair." in page.shown["doctor"]
    assert "addift-overlay" in page.shown["doctor"]
    page.do("take_pictures", original=original, target=original)
    assert "identical" in page.shown["doctor"]
    page.do("take_pictures", original=original, target=Image.new("RGB", (20, 20)))
    assert "at least 64 px" in page.shown["doctor"]


def test_the_doctor_follows_the_mask(page: Page) -> None:
    page.put_pair()
    before = page.shown["doctor"]
    page.do("keep_draft", mask="off")
    assert page.shown["doctor"] != before
    assert "doctor" not in page.do("keep_draft", mask="off")


@pytest.mark.slow
def test_an_earlier_job_can_be_looked_at(trained: Page) -> None:
    trained.train("second")
    wait(trained)
    jobs = trained.handlers.jobs.all()
    assert trained.shown["jobs is visible"]
    label = trained.shown["jobs"]
    assert trained.handlers.panels.job_id(label) == jobs[1].id
    assert label.startswith("second, ")
    assert label.endswith(", done")
    assert jobs[1].id not in label
    (first,) = (each for each in trained.changed["jobs"]["choices"] if each.startswith("closed, "))
    trained.do("show_job", jobs=first)
    assert "&lt;lora:closed:1&gt;" in trained.shown["result"]


def test_the_doctor_follows_align(page: Page) -> None:
    original, target = pair()
    page.do("take_pictures", original=original, target=ImageChops.offset(target, 1, 0))
    assert "align = true" in page.shown["doctor"]
    page.do("keep_draft", align=True)
    assert "was moved back" in page.shown["doctor"]
    assert "align = true" not in page.shown["doctor"]
