"""What each button of the tab 'Pair' does, over real jobs on a fake host."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from lib_addift.config.presets import PRESETS
from lib_addift.jobs.queue import JobState
from lib_addift.training.events import Request
from lib_addift.ui.handlers import Handlers
from lib_addift.ui.trial import WEIGHTS
from tests.support.page import Page, pair, wait


def test_a_page_that_was_not_restored_does_not_empty_the_draft(handlers: Handlers, page: Page) -> None:
    page.put_pair()
    handlers.take_pictures({"original": None, "target": None, "seen": ""})
    assert handlers.draft.pictures["original"] is not None


def test_swap(page: Page) -> None:
    page.put_pair()
    original, target = page.shown["original"], page.shown["target"]
    page.do("swap")
    assert np.array_equal(page.shown["original"], target)
    assert np.array_equal(page.shown["target"], original)


def test_a_preset_fills_in_its_settings_and_leaves_the_others(page: Page) -> None:
    page.do("keep_draft", seed=9)
    page.do("choose_preset", preset="detail")
    assert page.shown["strength"] == PRESETS["detail"]["strength"]
    page.do("choose_preset", preset="style")
    assert page.shown["strength"] == PRESETS["style"]["strength"]
    assert page.shown["mask"] == "off"
    assert page.shown["seed"] == 9
    page.do("choose_preset", preset="concept")
    assert (page.shown["algorithm"], page.shown["rank"], page.shown["strength"]) == ("shift", 1, 1.0)


@pytest.mark.parametrize(("chosen", "value"), [("preset", "style"), ("method", "slider")])
def test_a_choice_that_a_reload_brought_back_fills_in_nothing(handlers: Handlers, chosen: str, value: str) -> None:
    """gradio 4 reports it as a person's choice."""
    page = Page(handlers)
    page.do(f"choose_{chosen}", **{chosen: value})
    page.do("keep_draft", max_train_steps=7)
    again = Page(handlers)
    again.do(f"choose_{chosen}", **{chosen: value})
    assert again.shown["max_train_steps"] == handlers.draft.values["max_train_steps"] == 7
    other = Page(handlers)  # opened before the choice, and then a person chooses there
    other.do(f"choose_{chosen}", **{chosen: value}, max_train_steps=30)
    assert other.shown["max_train_steps"] != 30


def test_a_reload_brings_everything_back(handlers: Handlers, trained: Page) -> None:
    trained.do("keep_draft", name="next", preset="detail", rank=3, layers=["projections"])
    again = Page(handlers)
    for name in ("name", "preset", "rank", "layers", "doctor", "progress", "result", "strip"):
        assert again.shown[name] == trained.shown[name], name
    assert np.array_equal(again.shown["original"], trained.shown["original"])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": ""}, "Give the LoRA a name"),
        ({"name": "a/b"}, "cannot hold"),
        ({"name": "x", "rank": 0}, "rank = 0"),
        ({"name": "x", "rank": None}, "rank = None"),
        ({"name": "x", "optimizer": "NoSuch"}, "NoSuch"),
    ],
)
def test_bad_input_is_a_sentence_beside_the_button(page: Page, values: dict[str, Any], sentence: str) -> None:
    page.put_pair()
    page.do("train", **values)
    assert sentence in page.shown["alert"]
    assert 'role="alert"' in page.shown["alert"]
    assert page.handlers.jobs.all() == []


def test_missing_pictures_are_named(page: Page) -> None:
    page.train("x")
    assert "Both pictures are missing" in page.shown["alert"]
    page.do("take_pictures", original=pair()[0], target=None)
    assert "The target is missing" in page.shown["alert"], "what is still wrong stays"
    page.do("take_pictures", target=pair()[1])
    assert page.shown["alert"] == "", "a sentence goes with its cause"
    page.do("take_pictures", target=None)
    assert page.shown["alert"] == "", "and comes back with the next press only"


def test_what_nobody_expected_is_a_sentence_too(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_request: Request) -> None:
        raise ZeroDivisionError("so")

    page.put_pair()
    monkeypatch.setattr(page.handlers.jobs, "submit", fail)
    page.train("x")
    assert "Unexpected ZeroDivisionError: so. The console has the details." in page.shown["alert"]


@pytest.mark.slow
def test_training_ends_with_the_evaluation(trained: Page) -> None:
    assert 'data-addift-state="done"' in trained.shown["progress"]
    assert 'data-addift-active="0"' in trained.shown["progress"]
    assert 'aria-valuenow="100"' in trained.shown["progress"]
    assert 'data-addift-tag="&lt;lora:closed:1&gt;"' in trained.shown["result"]
    for part in (
        "addift-verdict",
        "addift-new",
        "data-addift-wipe",
        "New picture 1 at weight 1",
        "new pictures it makes",
        "addift-pictures",
        "closed.safetensors",
    ):
        assert part in trained.shown["result"]
    assert trained.shown["finish is visible"]
    assert not trained.shown["stop is visible"]
    assert trained.shown["insert is visible"]
    assert trained.shown["name"] == "closed_2", "its name is taken now"
    assert not trained.shown["overwrite is visible"]


@pytest.mark.slow
def test_a_taken_name_needs_permission_which_another_name_does_not_inherit(trained: Page) -> None:
    trained.train("closed")
    assert "allow overwriting" in trained.shown["alert"]
    assert "Previous: closed" in trained.shown["result"]
    assert not trained.shown["insert is visible"]
    trained.do("keep_draft", overwrite=True)
    assert trained.shown["alert"] == ""
    assert not trained.shown["result"].count("Previous")
    trained.do("keep_draft", name="other")
    assert trained.shown["overwrite"] is False
    assert not trained.shown["overwrite is visible"]
    assert trained.handlers.draft.values["overwrite"] is False


def test_the_kept_steps_can_be_walked_through_and_saved(trained: Page) -> None:
    job = trained.handlers.jobs.latest()
    assert job is not None
    assert trained.shown["kept is visible"]
    assert [s.step for s in job.snapshots] == [2, 4]
    assert "after step 4 of 4, as it was saved." in trained.shown["strip"]
    trained.do("show_step", scrub=2)
    assert "data-addift-step=2" in trained.shown["strip"]
    assert "at the weight it has so far" in trained.shown["strip"]
    trained.do("save_step")
    wait(trained)
    assert "&lt;lora:closed-step2:1&gt;" in trained.shown["result"]
    assert trained.changed.get("choice", {}).get("choices", ["closed", "closed-step2"]) == ["closed", "closed-step2"]
    trained.do("show_file", choice="closed")
    assert "&lt;lora:closed:1&gt;" in trained.shown["result"]


def test_stop_and_keep(page: Page) -> None:
    page.put_pair()
    page.train("kept", max_train_steps=2000, preview_every=0)
    job = page.handlers.jobs.latest()
    assert job is not None
    while job.step < 1:
        threading.Event().wait(0.01)
    page.do("stop_keep")
    wait(page)
    assert job.state is JobState.STOPPED
    assert f"kept-step{job.step}" in page.shown["result"]
    assert page.shown["again is visible"]


def test_train_again_fills_the_form_from_the_job(trained: Page) -> None:
    trained.do("keep_draft", name="else", rank=200, preset="style")
    trained.do("take_pictures", original=None, target=None)
    trained.do("fill_from_job")
    assert (trained.shown["name"], trained.shown["rank"], trained.shown["preset"]) == ("closed_2", 1, "concept")
    assert np.array_equal(trained.shown["original"], pair()[0])
    assert "This is a good pair." in trained.shown["doctor"]


@pytest.mark.parametrize("button", ["stop", "stop_keep", "save_step", "fill_from_job", "draw_test"])
def test_without_a_job_the_buttons_say_so(page: Page, button: str) -> None:
    page.do(button, test_seed=1)
    assert "Nothing was trained yet" in page.shown["alert"]


def test_the_test_draws_a_labelled_row(trained: Page) -> None:
    trained.do("draw_test", test_prompt="a face", test_negative="", test_seed=3, test_mode="merge")
    for thread in [t for t in threading.enumerate() if t.name == "addift-test"]:
        thread.join(30)
    trained.do("refresh")
    assert "addift-grid" in trained.shown["test_grid"]
    assert "data-addift-active" not in trained.shown["test_grid"]
    row = trained.handlers.trial.row()
    assert row is not None
    assert row.width == 128 * len(WEIGHTS)  # 64 px is too little for the labels
    trained.do("draw_test", test_seed=-1)
    assert "seed" in trained.shown["test_grid"]


@pytest.mark.slow
def test_the_test_of_several_loras(handlers: Handlers, trained: Page) -> None:
    prompts: list[str] = []

    def draw(prompt: str, **_settings: Any) -> np.ndarray:
        prompts.append(prompt)
        return np.zeros((64, 64, 3), np.uint8)

    trained.handlers.trial.host.draw = draw  # type: ignore[method-assign]
    for mode, prompt, other, words in (
        ("merge", "a <lora:hat:0.5:every=2>", "a <lora:hat:0.5:every=2>", "0 is without it."),
        ("switch", "a <lora:hat>", "a <lora:hat:compose=switch>", "switch with the other LoRAs of the prompt"),
        ("composite", "a face", "a face", "The prompt names no other LoRA, so composite does what merge does."),
        (None, "a <lora:hat>", "a <lora:hat>", "0 is without it."),
    ):
        prompts.clear()
        trained.do("draw_test", test_prompt=prompt, test_negative="", test_seed=3, test_mode=mode)
        for thread in [t for t in threading.enumerate() if t.name == "addift-test"]:
            thread.join(30)
        trained.do("refresh")
        said = f":compose={mode}" if mode in ("switch", "composite") else ""
        expected = [f"{other} <lora:closed:{weight:g}{said}>" if weight else other for weight in WEIGHTS]
        assert prompts == expected
        assert words in trained.shown["test_grid"]
        assert Page(handlers).shown["test_mode"] == (mode or "merge"), "a reload brings it back"
