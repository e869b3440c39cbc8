"""The tab without a browser: form, draft, panels, layout, and the handlers over real jobs on a fake host."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lib_addift.config.presets import PRESETS
from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import Finding
from lib_addift.errors import ConfigError, JobError
from lib_addift.jobs.queue import Jobs, JobState
from lib_addift.training.events import Request
from lib_addift.training.methods import from_mapping
from lib_addift.ui import form, render
from lib_addift.ui.curve import curve
from lib_addift.ui.form import FORM, SETTINGS, Draft
from lib_addift.ui.handlers import Handlers
from lib_addift.ui.panels import PANELS, job_id
from lib_addift.ui.trial import WEIGHTS, Trial, TrialRequest
from tests.support.fake_host import FakeHost
from tests.support.page import NASTY, QUICK, Page, pair

ROOT = Path(__file__).parents[2]


@pytest.fixture
def handlers(tmp_path: Path) -> Handlers:
    return Handlers(Jobs(FakeHost(tmp_path)))


@pytest.fixture
def page(handlers: Handlers) -> Page:
    return Page(handlers)


@pytest.fixture
def trained(page: Page) -> Page:
    page.put_pair()
    page.train("closed")
    wait(page)
    return page


def wait(page: Page) -> None:
    job = page.handlers.jobs.latest()
    assert job is not None
    assert not page.handlers.jobs.wait(job.id, timeout=60).is_active
    page.do("refresh")


# The form.


def test_a_sets_own_preset_acts_on_top_of_the_form() -> None:
    values = {**form.empty_form(), **form.preset_values("action"), "rank": 8}
    base = form.base_settings_of(values)
    assert base == {"preset": "action", "rank": 8}, "only what a person changed"
    assert from_mapping({**base, "preset": "style"}).mask == "off"
    assert from_mapping(form.base_settings_of({**values, "mask": "off"})).mask == "off"


def test_importing_the_package_loads_no_gradio() -> None:
    program = "import sys, lib_addift.ui, lib_addift.ui.handlers; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_every_setting_stands_in_one_part_of_the_form() -> None:
    parts = form.parts()
    assert sorted(name for names in parts.values() for name in names) == sorted(SETTINGS)
    assert "" not in parts
    assert parts[form.OFTEN_USED] == [n for n, s in SETTINGS.items() if s.metadata.get("advanced") is False]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_config_survives_the_form(preset: str) -> None:
    config = TrainConfig.create(preset, rank=7, layers=("convolutions",), prompt=NASTY, calibrate=False)
    request = Request.of("a.png", "b.png", "name", config)
    values = form.form_of(request, form.preset_of(config))
    assert set(values) == set(FORM)
    assert values["preset"] == preset
    assert form.config_of(json.loads(json.dumps(values))) == config


def test_the_empty_form_is_the_default_config() -> None:
    assert form.config_of(form.empty_form()) == TrainConfig.create()


def test_a_bad_value_is_named() -> None:
    with pytest.raises(ConfigError, match="rank = 0 is out of bounds"):
        form.config_of({**form.empty_form(), "rank": 0})


def test_numbers_show_their_bounds_in_the_help() -> None:
    assert form.help_text("rank").endswith("(1 to 256)")
    assert form.widget("mask_floor") == "slider"
    assert form.widget("learning_rate") == "number"
    assert 0 < form.number_step("learning_rate") <= 1e-4


# The draft.


def test_the_draft_keeps_pictures_upright_and_in_modes_that_browsers_show() -> None:
    sideways = Image.new("RGB", (100, 64))
    sideways.getexif()[0x0112] = 6
    draft = Draft()
    draft.set_pictures(original=sideways, target=Image.new("CMYK", (64, 64)))
    original, target = draft.pictures["original"], draft.pictures["target"]
    assert original is not None
    assert target is not None
    assert original.size == (64, 100)
    assert target.mode == "RGB"
    draft.set_pictures(original=Image.new("P", (8, 8)))  # too small to train on, but to be seen
    original = draft.pictures["original"]
    assert original is not None
    assert original.size == (8, 8)
    assert draft.pictures["target"] is target, "each slot speaks for itself"
    draft.set_pictures(target=None)
    assert draft.pictures["target"] is None


def test_a_picture_is_decoded_once_for_each_time_that_it_is_sent(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Image.Image] = []
    transpose = ImageOps.exif_transpose
    monkeypatch.setattr(
        "lib_addift.data.pictures.ImageOps.exif_transpose", lambda each: (decoded.append(each), transpose(each))[1]
    )

    def uploaded() -> dict[str, Image.Image]:
        files = {role: io.BytesIO() for role in form.PICTURES}
        for picture, file in zip(pair(), files.values(), strict=True):
            picture.save(file, "PNG")
        return {role: Image.open(file) for role, file in files.items()}

    page.do("pause")
    page.do("take_pictures", **uploaded())
    assert "This is a good pair." in page.shown["doctor"]
    page.do("keep_draft", mask="off")
    assert len(decoded) == 2, "the doctor looks at what the draft has"
    page.do("train", **{**QUICK, **uploaded(), "name": "x"})
    assert page.shown["alert"] == ""
    assert len(decoded) == 4, "the checks and the job's files take what the draft has"


def test_the_draft_takes_no_unknown_fields() -> None:
    draft = Draft()
    draft.set_values({"name": "x", "other": 1})
    assert draft.values == {**form.empty_form(), "name": "x"}


# What is rendered.


def test_nothing_that_a_person_types_becomes_html_or_a_template() -> None:
    shown = render.escape(NASTY)
    assert not set(shown) & set("<>\"'${}@")
    assert render.escape("plain") == "plain"


def test_every_panel_escapes(page: Page) -> None:
    finding = Finding("warning", NASTY)
    picture = Image.new("RGB", (64, 64))
    for html in (render.error(NASTY), render.note(NASTY), render.doctor([finding], picture)):
        assert "<img src=x" not in html
        assert "${" not in html
    assert "<img src=x" not in render.grid(None, NASTY, NASTY, is_running=False)
    page.do("train", name=NASTY)
    page.do("keep_draft", name=NASTY)
    assert "<img src=x" not in "".join(map(str, page.shown.values())).replace(NASTY, "")


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


def test_the_loss_curve_bears_any_losses() -> None:
    assert curve([], 10) == curve([0.1], 10) == curve([float("nan"), 0.1], 10) == ""
    assert "nan" not in curve([0.1, float("nan"), float("inf"), 0.1], 10)
    many = curve([1.0 / (n + 1) for n in range(10_000)], 10_000)
    assert many.count(",") < 1000


# What the buttons do.


def test_a_new_page_is_welcomed(page: Page) -> None:
    assert "From two pictures" in page.shown["progress"]
    assert "put in two pictures" in page.shown["doctor"].lower()
    assert page.shown["preset"] == "action"
    assert set(page.changed) >= {*FORM, *PANELS, "original", "target", "page"}


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
    page.do("keep_draft", rank=9)
    page.do("choose_preset", preset="detail")
    assert page.shown["strength"] == PRESETS["detail"]["strength"]
    page.do("choose_preset", preset="style")
    assert page.shown["strength"] == PRESETS["style"]["strength"]
    assert page.shown["mask"] == "off"
    assert page.shown["rank"] == 9


def test_a_reload_brings_everything_back(handlers: Handlers, trained: Page) -> None:
    trained.do("keep_draft", name="next", preset="detail", rank=3, layers=["projections"])
    again = Page(handlers)
    for name in ("name", "preset", "rank", "layers", "doctor", "progress", "result", "strip"):
        assert again.shown[name] == trained.shown[name], name
    assert np.array_equal(again.shown["original"], trained.shown["original"])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": ""}, "is empty: type a name"),
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
    assert page.shown["alert"] == ""
    page.shown["original"] = pair()[0]
    page.train("x")
    assert "The target is missing" in page.shown["alert"]


def test_what_nobody_expected_is_a_sentence_too(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_request: Request) -> None:
        raise ZeroDivisionError("so")

    page.put_pair()
    monkeypatch.setattr(page.handlers.jobs, "submit", fail)
    page.train("x")
    assert "Unexpected ZeroDivisionError: so. The console has the details." in page.shown["alert"]


def test_training_ends_with_the_proof(trained: Page) -> None:
    assert 'data-addift-state="done"' in trained.shown["progress"]
    assert 'data-addift-active="0"' in trained.shown["progress"]
    assert 'aria-valuenow="100"' in trained.shown["progress"]
    assert 'data-addift-tag="&lt;lora:closed:1&gt;"' in trained.shown["result"]
    for part in ("addift-verdict", "addift-final-strip", "addift-pictures", "closed.safetensors"):
        assert part in trained.shown["result"]
    assert trained.shown["finish is visible"]
    assert not trained.shown["stop is visible"]
    assert trained.shown["overwrite is visible"], "its name is taken now"


def test_a_taken_name_needs_permission_which_another_name_does_not_inherit(trained: Page) -> None:
    trained.train("closed")
    assert "allow overwriting" in trained.shown["alert"]
    trained.do("keep_draft", overwrite=True)
    trained.do("keep_draft", name="other")
    assert trained.shown["overwrite"] is False
    assert not trained.shown["overwrite is visible"]
    assert trained.handlers.draft.values["overwrite"] is False


def test_the_kept_steps_can_be_walked_through_and_saved(trained: Page) -> None:
    job = trained.handlers.jobs.latest()
    assert job is not None
    assert trained.shown["kept is visible"]
    assert [s.step for s in job.snapshots] == [2, 4]
    assert "After step 4 of 4, as it was saved." in trained.shown["strip"]
    trained.do("show_step", scrub=2)
    assert "data-addift-step=2" in trained.shown["strip"]
    assert "calibration scales them" in trained.shown["strip"]
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
    assert (trained.shown["name"], trained.shown["rank"], trained.shown["preset"]) == ("closed", 4, "action")
    assert np.array_equal(trained.shown["original"], pair()[0])
    assert "This is a good pair." in trained.shown["doctor"]


def test_an_earlier_job_can_be_looked_at(trained: Page) -> None:
    trained.train("second")
    wait(trained)
    jobs = trained.handlers.jobs.all()
    assert trained.shown["jobs is visible"]
    assert job_id(trained.shown["jobs"]) == jobs[1].id
    trained.do("show_job", jobs=f"closed - done #{jobs[0].id}")
    assert "&lt;lora:closed:1&gt;" in trained.shown["result"]


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


def test_the_test_writes_tags_as_prompts_hold_them() -> None:
    prompts: list[str] = []

    class Host(FakeHost):
        def draw(self, prompt: str, **settings: Any) -> np.ndarray:
            prompts.append(prompt)
            return super().draw(prompt, width=64, height=64)

    trial = Trial(Host())
    trial.start(TrialRequest("eyes", "a face")).join(30)
    weights = ["-1", "-0.5", "0", "0.5", "1", "1.5"]
    assert prompts == ["a face" + (f" <lora:eyes:{w}>" if w != "0" else "") for w in weights]


def test_one_test_at_a_time_and_its_failure_is_a_sentence() -> None:
    gate = threading.Event()

    class Host(FakeHost):
        def draw(self, prompt: str, **_settings: Any) -> np.ndarray:
            gate.wait(30)
            raise RuntimeError("no memory")

    trial = Trial(Host())
    thread = trial.start(TrialRequest("eyes", ""))
    with pytest.raises(JobError, match="already"):
        trial.start(TrialRequest("eyes", ""))
    gate.set()
    thread.join(30)
    assert trial.task.error == "unexpected RuntimeError: no memory. The console has the details."
    assert not trial.task.is_busy


# The layout. In a process of its own: gradio leaves event loops behind, and its imports warn of each other.

PROGRAM = """
import json, sys
from pathlib import Path
from lib_addift.jobs.queue import Jobs
from lib_addift.ui.tab import build_tab
from tests.support.fake_host import FakeHost
blocks = build_tab(Jobs(FakeHost(Path(sys.argv[1]))), in_webui=sys.argv[2] == "a1111").blocks.values()
named = {block.elem_id: block for block in blocks if getattr(block, "elem_id", None)}
facts = {name: [getattr(block, "label", None), getattr(block, "info", None)] for name, block in named.items()}
print(json.dumps([facts, all(b.do_not_save_to_config for b in blocks)]))
"""


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs gradio")
@pytest.mark.parametrize("host_name", ["standalone", "a1111"])
def test_the_tab_is_built_from_the_settings(tmp_path: Path, host_name: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), host_name]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    parts, is_kept_out_of_the_webuis_defaults = json.loads(output.splitlines()[-1])
    assert is_kept_out_of_the_webuis_defaults
    for name, setting in SETTINGS.items():
        label, info = parts[f"addift_set_{name}"]
        assert label == setting.metadata["label"]
        assert info.startswith(setting.metadata["help"])
    assert all(elem_id.startswith("addift_") for elem_id in parts)
    assert parts["addift_test_mode"][0] == "Several LoRAs"
    assert ("addift_insert_txt2img" in parts) == (host_name == "a1111")
    assert ("addift_wait_note" in parts) == (host_name == "a1111")
