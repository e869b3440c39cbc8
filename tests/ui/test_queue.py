"""The tab Queue without a browser: the handlers over real jobs on a fake host."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lib_addift.jobs.queue import Jobs, JobState
from lib_addift.ui import queue, render
from lib_addift.ui.handlers import Handlers
from tests.support.fake_host import FakeHost
from tests.support.page import NASTY, QUICK, Page, act, queued


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    (tmp_path / "Lora").mkdir()
    return FakeHost(tmp_path / "Lora")


@pytest.fixture
def page(host: FakeHost) -> Page:
    page = Page(Handlers(Jobs(host)))
    page.do("keep_draft", **QUICK)
    return page


def order(page: Page) -> list[str]:
    """The names in the list, from top to bottom."""
    return [part.partition("<")[0] for part in page.shown["queue"].split("<h4>")[1:]]


def test_an_empty_queue(page: Page) -> None:
    assert "Nothing was trained yet" in page.shown["queue"]
    assert page.shown["pause is visible"]
    assert not page.shown["resume is visible"]


def test_jobs_that_wait_can_be_moved_and_cancelled(page: Page) -> None:
    jobs = queued(page, "a", "b", "c")
    assert order(page) == ["a", "b", "c"]
    act(page, "up", jobs[2])
    assert order(page) == ["a", "c", "b"]
    act(page, "up", jobs[0])
    assert order(page) == ["a", "c", "b"]
    act(page, "down", jobs[0])
    assert order(page) == ["c", "a", "b"]
    act(page, "down", jobs[0])
    act(page, "down", jobs[0])
    assert order(page) == ["c", "b", "a"]
    act(page, "cancel", jobs[1])
    assert order(page) == ["c", "a", "b"], "what has ended stands below"
    assert jobs[1].state is JobState.STOPPED
    act(page, "up", jobs[1])
    assert "waits no more" in page.shown["queue_alert"]
    act(page, "retry", jobs[1])
    assert page.shown["queue_alert"] == ""
    assert order(page) == ["c", "a", "b"]
    assert jobs[1].is_queued


def test_pause_and_go_on(page: Page) -> None:
    jobs = queued(page, "a")
    assert "The queue is paused" in page.shown["queue"]
    assert page.shown["resume is visible"]
    assert not page.shown["pause is visible"]
    page.do("resume")
    assert page.handlers.jobs.wait(jobs[0].id, 60).state is JobState.DONE
    page.do("refresh")
    assert 'data-addift-active="0"' in page.shown["queue"]
    assert render.sentence(jobs[0].text) in page.shown["queue"], "the verdict"
    assert page.shown["pause is visible"]


def test_steps_change_the_news_and_not_the_list(page: Page) -> None:
    (job,) = queued(page, "a")
    job.state, job.text = JobState.RUNNING, "training"
    page.do("refresh")
    job.step, job.version, job.seconds_left, job.seconds_a_step = 2, job.version + 1, 7.0, 3.5
    changed = page.do("refresh")
    assert "queue" not in changed
    assert 'data-percent="29" data-steps="Step 2 of 4" data-left="about 17 s left"' in changed["queue_news"], (
        "measuring and drawing are work too"
    )
    assert "queue_faces" not in changed
    job.is_stopping, job.version = True, job.version + 1
    assert "stopping" in page.do("refresh")["queue"]


def test_show_and_repeat(page: Page) -> None:
    first, second = queued(page, "a", "b")
    act(page, "show", first)
    assert "<h3>a</h3>" in page.shown["progress"]
    page.do("keep_draft", name="other", rank=99)
    page.do("take_pictures", original=None, target=None)
    act(page, "repeat", second)
    assert (page.shown["name"], page.shown["rank"]) == ("b", second.request.config.rank)
    assert page.shown["original"].size == (64, 64)
    assert "<h3>b</h3>" in page.shown["progress"]


def test_remove_forgets_what_has_ended(page: Page) -> None:
    waiting, other = queued(page, "a", "b")
    act(page, "remove", waiting)
    assert "has not ended" in page.shown["queue_alert"]
    act(page, "cancel", other)
    act(page, "remove", other)
    assert order(page) == ["a"]
    assert other.id not in page.shown["queue_faces"]


@pytest.mark.parametrize("asked", ["retry 12345678", "show 12345678", "retry", "nonsense 12345678"])
def test_what_cannot_be_done_is_a_sentence(page: Page, asked: str) -> None:
    page.do("press_row_button", act=asked)
    assert "There is no job" in page.shown["queue_alert"]
    page.do("press_row_button", act="")
    assert page.shown["queue_alert"] == ""


def test_the_log_and_the_error_are_on_the_page(page: Page) -> None:
    (job,) = queued(page, "a")
    job.state, job.error = JobState.FAILED, NASTY
    job.note(NASTY)
    page.do("refresh")
    assert page.shown["queue"].count("<time>") == len(job.log) == 2
    assert "<img src=x" not in page.shown["queue"]
    assert render.sentence(NASTY) in page.shown["queue"]


def test_a_long_queue_stays_small_and_quick_to_look_at(page: Page) -> None:
    (job,) = queued(page, "a")
    jobs = [job] * 200
    assert len(queue.table(jobs, 0, is_paused=False)) < 200 * 3000
    ended = [
        dataclasses.replace(job, id=f"{number:08x}", state=JobState.DONE, finished=number) for number in range(150)
    ]
    shown = queue.display_order([*ended, job], [job])
    assert [shown[0].id, shown[1].id] == [job.id, ended[-1].id]
    assert len(shown) == 101
    assert "50 older ones are not shown" in queue.table(shown, 50, is_paused=False)
