"""The components of the tabs 'Pair', 'Batch' and 'Queue', by name. tab.py puts them together and binds their events."""

from __future__ import annotations

import gradio as gr

from lib_addift.hosts.prompt_tag.syntax import MERGE, MODES
from lib_addift.ui import compat, job_view
from lib_addift.ui.form_layout import build_form, build_settings
from lib_addift.ui.parts import Components, button, html
from lib_addift.ui.restoring import STASH_PICTURES

_INTRO = (
    '<p class="addift-intro">Two pictures that differ in one thing become a LoRA of exactly that thing. '
    "Put them in, give it a name, press Train.</p>"
)
_TEST_HELP = "Six pictures of one prompt and one seed, at weights -1 to 1.5."
_MODE_HELP = (
    "For a prompt that names other LoRAs too, as in <lora:hat:1>. merge: all act at once, as in any picture. switch: "
    "they take turns, one in each step. composite: each acts alone, and each step takes the mean; this is slower."
)


def hidden_texts() -> Components:
    """`seen`: what the page has, as Panels.changes wrote it. `act`: the row button of the queue that was pressed.

    `stash`: see restoring.py. `shown_pair`: the key of the pair that the slots show. No gr.State, as events without
    preprocessing do not get its value.
    """
    names = ("seen", "act", "stash", "shown_pair")
    return {name: gr.Textbox("", label=name, visible=False, elem_id=f"addift_{name}") for name in names}


def hidden_pictures() -> Components:
    """The stash of the pictures."""
    return {name: compat.picture(name, f"addift_{name}", visible=False) for name in STASH_PICTURES}


def hidden_buttons() -> Components:
    """Pressed by JavaScript when the page opens, while a job runs and after input."""
    names = ("restore", "refresh", "keep_draft", "keep_pictures", "look", "do")
    return {name: button(name, name) for name in names}


def build_pair(in_webui: bool) -> Components:
    """The form on the left, the job on the right, the settings below both."""
    parts: Components = {}
    html("intro", _INTRO)
    with gr.Row(elem_id="addift_columns"):
        with gr.Column(scale=1, min_width=320, elem_id="addift_form"):
            parts |= build_form(in_webui)
        with gr.Column(scale=1, min_width=320, elem_id="addift_job"):
            parts |= _build_job(in_webui)
    return parts | build_settings()


def _build_job(in_webui: bool) -> Components:
    parts = {
        "jobs": gr.Dropdown([], label="Trainings", visible=False, elem_id="addift_jobs"),
        "progress": html("progress", job_view.WELCOME),
    }
    with gr.Row(elem_id="addift_job_buttons"):
        parts["stop_keep"] = button("stop_keep", "Stop and keep", visible=False)
        parts["stop"] = button("stop", "Stop", "stop", visible=False)
        parts["again"] = button("again", "Train again with these settings", visible=False)
    with gr.Column(visible=False, elem_id="addift_finish") as parts["finish"]:
        parts["choice"] = gr.Radio([], label="Saved LoRAs", visible=False, elem_id="addift_choice")
        parts["result"] = html("result")
        with gr.Row(elem_id="addift_insert") as parts["insert"]:
            if in_webui:
                parts["insert_txt2img"] = button("insert_txt2img", "Insert into txt2img", "primary")
                parts["insert_img2img"] = button("insert_img2img", "Insert into img2img", "primary")
    parts["strip"] = html("strip")
    with gr.Row(visible=False, elem_id="addift_kept") as parts["kept"]:
        parts["scrub"] = gr.Slider(
            0, 100_000, value=0, step=1, label="Kept step", visible=False, elem_id="addift_scrub",
            info="Walk through the steps that were kept, and save the one that you like best.",
        )  # fmt: skip
        parts["save_step"] = button("save_step", "Save this step")
    with gr.Column(visible=False, elem_id="addift_try") as parts["try"]:
        parts |= _build_test("Test in txt2img" if in_webui else "Test with another prompt")
    return parts


def _build_test(title: str) -> Components:
    parts: Components = {}
    with gr.Accordion(title, open=False, elem_id="addift_test_box"):
        parts["test_prompt"] = gr.Textbox(label="Prompt", info=_TEST_HELP, lines=2, elem_id="addift_test_prompt")
        with gr.Row():
            parts["test_negative"] = gr.Textbox(
                label="Negative prompt", lines=1, min_width=160, scale=2, elem_id="addift_test_negative"
            )
            parts["test_seed"] = gr.Number(
                1, label="Seed", precision=0, min_width=100, scale=1, elem_id="addift_test_seed"
            )
        parts["test_mode"] = gr.Radio(
            list(MODES), value=MERGE, label="Several LoRAs", info=_MODE_HELP, elem_id="addift_test_mode"
        )
        parts["test"] = button("test", title)
        parts["test_grid"] = html("test_grid")
    return parts


def build_batch() -> Components:
    """The folder, and the sets that were found in it."""
    parts: Components = {}
    with gr.Row(elem_id="addift_batch_asked"):
        parts["batch_folder"] = gr.Textbox(
            label="Folder", info="Of one set of pairs, or of folders each of which is a set.", max_lines=1, scale=4,
            placeholder="/pictures/sets", elem_id="addift_batch_folder",
        )  # fmt: skip
        parts["look_at_folder"] = button("look_at_folder", "Look")
    parts["batch_overwrite"] = gr.Checkbox(
        False, label="Overwrite LoRAs of the same names", elem_id="addift_batch_overwrite"
    )
    parts |= {name: html(name) for name in ("batch_hint", "batch_alert", "batch_faces", "batch")}
    parts["batch_train"] = button("batch_train", "Train all", "primary", visible=False)
    return parts


def build_queue() -> Components:
    """All jobs, with the buttons that stop and start the queue."""
    parts: Components = {}
    with gr.Row(elem_id="addift_queue_buttons"):
        parts["pause"] = button("pause", "Pause")
        parts["resume"] = button("resume", "Go on", "primary", visible=False)
    return parts | {name: html(name) for name in ("queue_alert", "queue_faces", "queue", "queue_news")}
