"""The tabs Batch and Queue without a browser: the handlers over real sets and jobs on a fake host."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from lib_addift.demo import world
from lib_addift.errors import HostError
from lib_addift.jobs.queue import Job, Jobs, JobState
from lib_addift.ui import queue, render
from lib_addift.ui.handlers import Handlers
from tests.support.fake_host import FakeHost
from tests.support.page import NASTY, QUICK, Page

FACE = world.Face()
CLOSED = dataclasses.replace(FACE, eyes="closed")


def put_set(folder: Path, settings: str = "", **faces: world.Face) -> Path:
    folder.mkdir(parents=True)
    for name, face in faces.items():
        world.draw(face).save(folder / f"{name}.png")
    if settings:
        (folder / "addift.toml").write_text(settings, encoding="utf-8")
    return folder


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    (tmp_path / "Lora").mkdir()
    return FakeHost(tmp_path / "Lora")


@pytest.fixture
def page(host: FakeHost) -> Page:
    page = Page(Handlers(Jobs(host)))
    page.do("keep_draft", **QUICK)
    return page


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    put_set(folder / "broken", a=FACE)
    put_set(folder / "eyes", "rank = 2", a=FACE, a_closed=CLOSED, b=FACE, b_closed=CLOSED)
    put_set(folder / "mouth", a=FACE, a_open=dataclasses.replace(FACE, mouth="open"))
    return folder


def settle(page: Page) -> None:
    """Until the thread of the batch has ended."""
    for thread in [each for each in threading.enumerate() if each.name == "addift-batch"]:
        thread.join(60)
    page.do("refresh")


def look(page: Page, folder: Path | str, *, overwrite: bool = False) -> None:
    page.do("scan_folder", batch_folder=str(folder), batch_overwrite=overwrite)
    settle(page)


def train_all(page: Page) -> None:
    page.do("train_all")
    settle(page)


def queued(page: Page, *names: str) -> list[Job]:
    """These jobs, of one pair each, waiting in a queue that is paused."""
    page.do("pause")
    page.put_pair()
    for name in names:
        page.train(name)
    assert page.shown["alert"] == ""
    return page.handlers.jobs.queue()


def order(page: Page) -> list[str]:
    """The names in the list, from top to bottom."""
    return [part.partition("<")[0] for part in page.shown["queue"].split("<h4>")[1:]]


def act(page: Page, action: str, job: Job) -> None:
    page.do("press_row_button", act=f"{action} {job.id}")


# Batch.


def test_a_look_shows_each_set_what_was_found_and_how_long_it_takes(page: Page, sets: Path) -> None:
    look(page, sets)
    html = page.shown["batch"]
    assert [html.count(f'data-addift-state="{state}"') for state in ("ready", "problem", "queued")] == [2, 1, 0]
    assert "No two pictures in it belong together" in html
    assert "<span>2 pairs</span><span>about " in html
    assert "2 of 3 sets can be trained, together in about" in html
    assert "data-addift-active" not in html
    assert page.shown["batch_faces"].count("data:image/jpeg;base64,") == 2
    assert page.shown["batch_train"] == "Train all 2"
    assert page.handlers.jobs.all() == []


def test_a_reload_keeps_what_was_looked_at(page: Page, sets: Path) -> None:
    look(page, f'"{sets}"', overwrite=True)  # as Windows copies a path
    again = Page(page.handlers)
    assert again.shown["batch_folder"] == f'"{sets}"'
    assert again.shown["batch_overwrite"] is True
    assert again.shown["batch"] == page.shown["batch"]


@pytest.mark.parametrize(("folder", "sentence"), [("", "No folder is named"), ("/no/where", "There is no folder")])
def test_a_bad_folder_is_a_sentence(page: Page, folder: str, sentence: str) -> None:
    look(page, folder)
    assert sentence in page.shown["batch_alert"]
    assert not page.shown["batch_train is visible"]


def test_bad_settings_of_the_form_are_said_once(page: Page, sets: Path) -> None:
    page.do("keep_draft", rank=0)
    look(page, sets)
    assert "rank = 0" in page.shown["batch_alert"]
    assert "data-addift-set" not in page.shown["batch"]


def test_warnings_are_shown_with_the_pairs_name_and_many_are_folded(page: Page, tmp_path: Path) -> None:
    other = dataclasses.replace(FACE, hair="red", eyes="closed")
    faces = {f"p{number}{end}": each for number in range(3) for end, each in (("", FACE), ("_b", other))}
    folder = put_set(tmp_path / "shifted", **faces)
    for number in range(3):
        picture = world.draw(other).transform((64, 64), world.Image.Transform.AFFINE, (1, 0, 9, 0, 1, 0))
        picture.save(folder / f"p{number}_b.png")
    look(page, folder)
    html = page.shown["batch"]
    assert "p0: " in html
    assert "more</summary>" in html
    assert html.count('aria-label="Warning"') >= 3


def test_no_times_while_a_training_runs(
    page: Page, sets: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = threading.Event(), host.predict_noise
    monkeypatch.setattr(host, "predict_noise", lambda *values: (gate.wait(30), real(*values))[1])
    page.put_pair()
    page.train("slow")
    job = page.handlers.jobs.latest()
    assert job is not None
    while not job.is_running:
        threading.Event().wait(0.01)
    look(page, sets)
    gate.set()
    assert "as a training runs" in page.shown["batch"]
    assert page.shown["batch_train"] == "Train all 2"
    page.handlers.jobs.wait(job.id, 60)


def test_without_a_model_there_are_no_times_and_the_reason_is_said(
    page: Page, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_values: Any) -> None:
        raise HostError("no model is loaded: choose one.")

    monkeypatch.setattr("lib_addift.ui.batch.with_seconds", fail)
    look(page, sets)
    assert "No times: no model is loaded: choose one." in page.shown["batch"]
    assert page.shown["batch_train"] == "Train all 2"


def test_what_nobody_expected_is_a_sentence(page: Page, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_values: Any, **_options: Any) -> None:
        raise ZeroDivisionError("so")

    monkeypatch.setattr("lib_addift.ui.batch.plan_batch", fail)
    look(page, sets)
    assert "Unexpected ZeroDivisionError: so." in page.shown["batch"]
    assert "data-addift-active" not in page.shown["batch"]


def test_one_look_at_a_time(page: Page, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr("lib_addift.ui.batch.plan_batch", lambda *_values, **_options: gate.wait(30) and [])
    page.do("scan_folder", batch_folder=str(sets), batch_overwrite=False)
    assert 'data-addift-active="1"' in page.shown["batch"]
    page.do("scan_folder")
    assert "Wait a moment" in page.shown["batch_alert"]
    gate.set()
    settle(page)


def test_train_all_queues_what_can_be_trained_with_the_forms_settings_and_the_sets_own(page: Page, sets: Path) -> None:
    page.do("pause")
    page.do("keep_draft", rank=7)
    look(page, sets)
    train_all(page)
    jobs = page.handlers.jobs.queue()
    assert [(job.name, job.request.config.rank, len(job.request.pairs)) for job in jobs] == [
        ("eyes", 2, 2),
        ("mouth", 7, 1),
    ]
    assert {job.request.config.max_train_steps for job in jobs} == {QUICK["max_train_steps"]}
    assert page.shown["batch"].count('data-addift-state="queued"') == 2
    assert "2 of 2 queued" in page.shown["batch"]
    assert not page.shown["batch_train is visible"]
    page.do("train_all")
    assert "nothing to queue" in page.shown["batch_alert"]


def test_a_set_that_is_refused_says_why_and_the_others_go_on(page: Page, sets: Path) -> None:
    queued(page, "eyes")
    look(page, sets)
    train_all(page)
    assert [job.name for job in page.handlers.jobs.queue()] == ["eyes", "mouth"]
    assert "being trained already" in page.shown["batch"]
    assert "1 of 2 queued" in page.shown["batch"]


def test_a_taken_name_needs_permission(page: Page, sets: Path, host: FakeHost) -> None:
    (host.lora_dir / "eyes.safetensors").write_bytes(b"old")
    page.do("allow_overwriting", batch_folder=str(sets), batch_overwrite=True)
    settle(page)
    assert "data-addift-set" not in page.shown["batch"], "nothing was looked at yet"
    look(page, sets)
    assert page.shown["batch_train"] == "Train it"
    page.do("allow_overwriting", batch_overwrite=True)
    settle(page)
    assert page.shown["batch_train"] == "Train all 2"
    page.do("pause")
    train_all(page)
    assert all(job.request.overwrite for job in page.handlers.jobs.queue())


def test_changed_settings_are_pointed_out(page: Page, sets: Path) -> None:
    look(page, sets)
    assert "have changed" not in page.shown["batch_hint"]
    page.do("keep_draft", rank=9)
    assert "have changed" in page.shown["batch_hint"]
    look(page, sets)
    assert "have changed" not in page.shown["batch_hint"]


@pytest.mark.skipif("os.name == 'nt'", reason="Windows has no such file names")
def test_names_of_folders_and_files_are_only_text(page: Page, tmp_path: Path) -> None:
    name = NASTY.replace("/", "")
    put_set(tmp_path / "sets" / name, **{name: FACE, f"{name}_b": CLOSED, "alone": FACE})
    look(page, tmp_path / "sets")
    html = page.shown["batch"]
    assert "data-addift-set" in html
    assert "<img src=x" not in html
    assert "${" not in html


# The queue.


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
    job.step, job.version, job.seconds_left = 2, job.version + 1, 7.0
    changed = page.do("refresh")
    assert "queue" not in changed
    assert 'data-percent="50" data-steps="Step 2 of 4" data-left="about 7 s left"' in changed["queue_news"]
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


def test_a_job_of_several_pairs_does_not_fit_into_the_form(page: Page, sets: Path) -> None:
    page.do("pause")
    look(page, sets)
    train_all(page)
    eyes, mouth = page.handlers.jobs.queue()
    for job in (eyes, mouth):
        act(page, "cancel", job)
    rows = {part[:8]: part for part in page.shown["queue"].split('data-addift-row="')[1:]}
    assert ['data-addift-act="repeat"' in rows[job.id] for job in (eyes, mouth)] == [False, True]
    act(page, "show", eyes)
    assert not page.shown["again is visible"]


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
