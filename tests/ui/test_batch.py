"""The tab Batch without a browser: the handlers over real sets and jobs on a fake host."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from lib_addift.demo import world
from lib_addift.errors import HostError
from lib_addift.jobs.queue import Jobs
from lib_addift.ui.handlers import Handlers
from tests.support.fake_host import FakeHost
from tests.support.page import NASTY, QUICK, Page, act, queued

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


def test_a_job_of_several_pairs_fills_the_form(page: Page, sets: Path) -> None:
    page.do("pause")
    look(page, sets)
    train_all(page)
    eyes, mouth = page.handlers.jobs.queue()
    for job in (eyes, mouth):
        act(page, "cancel", job)
    rows = {part[:8]: part for part in page.shown["queue"].split('data-addift-row="')[1:]}
    assert ['data-addift-act="repeat"' in rows[job.id] for job in (eyes, mouth)] == [True, True]
    act(page, "repeat", eyes)
    assert page.shown["again is visible"]
    pairs = page.handlers.draft.pairs.items
    assert [pair.name for pair in pairs] == [source.name for source in eyes.request.pairs]
    assert page.shown["pairs"].count("data-addift-row") == len(pairs) > 1
    assert page.shown["name"] == eyes.name
