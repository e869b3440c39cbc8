"""The components of the tabs 'Pair', 'Batch' and 'Queue', by name. tab.py puts them together and binds their events."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_addift.config.presets import PRESETS
from lib_addift.hosts.prompt_tag.syntax import MERGE, MODES
from lib_addift.ui import compat, form, render
from lib_addift.ui.restoring import STASH_PICTURES

_PRESET_HELP = (
    "concept: whatever could be said in words; try it first. For a LoRA in layers: action for a shape, such as eyes or "
    "a pose; style for texture, palette, line; detail for a small thing."
)
_INTRO = (
    '<p class="addift-intro">Two pictures that differ in one thing become a LoRA of exactly that thing. '
    "Put them in, give it a name, press Train.</p>"
)
_WAIT = '<p class="addift-hint">Pictures that you generate meanwhile wait until training has finished.</p>'
_TEST_HELP = "Six pictures of one prompt and one seed, at weights -1 to 1.5."
_MODE_HELP = (
    "For a prompt that names other LoRAs too, as in <lora:hat:1>. merge: all act at once, as in any picture. switch: "
    "they take turns, one in each step. composite: each acts alone, and each step takes the mean; this is slower."
)
_TEXT_LINES = {"prompt": 2, "preview_prompt": 2}
Components = dict[str, Any]


def html(name: str, value: str = "") -> Any:
    """An HTML component, whose id in the page is addift_`name`."""
    return gr.HTML(value, elem_id=f"addift_{name}")


def hidden_texts() -> Components:
    """`seen`: what the page has, as Panels.changes wrote it. `act`: the row button of the queue that was pressed.

    `stash`: see restoring.py. No gr.State, as events without preprocessing do not get its value.
    """
    names = ("seen", "act", "stash")
    return {name: gr.Textbox("", label=name, visible=False, elem_id=f"addift_{name}") for name in names}


def hidden_pictures() -> Components:
    """The stash of the pictures."""
    return {name: compat.picture(name, f"addift_{name}", visible=False) for name in STASH_PICTURES}


def _button(name: str, text: str, variant: str = "secondary", *, visible: bool = True) -> Any:
    size = "lg" if variant == "primary" else "sm"
    return gr.Button(text, variant=variant, size=size, visible=visible, elem_id=f"addift_{name}")


def hidden_buttons() -> Components:
    """Pressed by JavaScript when the page opens, while a job runs and after input."""
    names = ("restore", "refresh", "keep_draft", "keep_pictures", "look", "do")
    return {name: _button(name, name) for name in names}


def build_pair(in_webui: bool) -> Components:
    """The form on the left, the job on the right."""
    parts: Components = {}
    html("intro", _INTRO)
    with gr.Row(elem_id="addift_columns"):
        with gr.Column(scale=1, min_width=320, elem_id="addift_form"):
            parts |= _build_form(in_webui)
        with gr.Column(scale=1, min_width=320, elem_id="addift_job"):
            parts |= _build_job(in_webui)
    return parts


def _build_form(in_webui: bool) -> Components:
    values, parts = form.empty_form(), {}
    with gr.Row(elem_id="addift_pictures"):
        parts["original"] = compat.picture("Original", "addift_original")
        parts["swap"] = _button("swap", "⇄ Swap")
        parts["target"] = compat.picture("Target", "addift_target")
    parts["doctor"] = html("doctor")
    with gr.Row(elem_id="addift_basics"):
        with gr.Column(min_width=200, scale=2):
            parts["name"] = gr.Textbox(
                label="Name", info="What you type in prompts, as in <lora:name:1>.", placeholder="closed_eyes",
                max_lines=1, elem_id="addift_name",
            )  # fmt: skip
            parts["name_note"] = html("name_note")
            parts["overwrite"] = gr.Checkbox(
                False, label="Overwrite the LoRA of this name", visible=False, elem_id="addift_overwrite"
            )
        parts["preset"] = gr.Radio(
            list(PRESETS), value=values["preset"], label="Preset: what differs?", info=_PRESET_HELP, min_width=270,
            scale=3, elem_id="addift_preset",
        )  # fmt: skip
    parts["train"] = _button("train", "Train", "primary")
    parts["alert"] = html("alert")
    if in_webui:
        html("wait_note", _WAIT)
    with gr.Accordion("Advanced", open=False, elem_id="addift_advanced"):
        parts["settings_note"] = html("settings_note")
        for heading, names in form.parts().items():
            html(f"heading_{names[0]}", f'<h4 class="addift-heading">{render.escape(heading)}</h4>')
            with gr.Row(elem_id=f"addift_part_{names[0]}"):
                parts |= {name: _setting(name, values[name]) for name in names}
    return parts


def _setting(name: str, value: Any) -> Any:
    """The component of one setting, made from the metadata of its field in TrainConfig."""
    rules, kind = form.SETTINGS[name].metadata, form.widget(name)
    common = {"value": value, "label": rules["label"], "elem_id": f"addift_set_{name}", "info": form.help_text(name)}
    if kind == "checkbox":
        return gr.Checkbox(min_width=200, **common)
    if kind == "checkboxes":
        return gr.CheckboxGroup(list(rules["choices"]), min_width=280, **common)
    if kind == "dropdown":
        return gr.Dropdown(list(rules["choices"]), min_width=200, **common)
    if kind == "text":
        return gr.Textbox(lines=_TEXT_LINES.get(name, 1), min_width=280, **common)
    step = form.number_step(name)
    if kind == "slider":
        return gr.Slider(minimum=rules["low"], maximum=rules["high"], step=step, min_width=200, **common)
    # No bounds here: gradio would answer with a message of its own instead of ours, which names the setting.
    return gr.Number(precision=0 if form.SETTINGS[name].type == "int" else None, step=step, min_width=200, **common)


def _build_job(in_webui: bool) -> Components:
    parts = {
        "jobs": gr.Dropdown([], label="Trainings", visible=False, elem_id="addift_jobs"),
        "progress": html("progress", render.WELCOME),
    }
    with gr.Row(elem_id="addift_job_buttons"):
        parts["stop_keep"] = _button("stop_keep", "Stop and keep", visible=False)
        parts["stop"] = _button("stop", "Stop", "stop", visible=False)
        parts["again"] = _button("again", "Train again with these settings", visible=False)
    with gr.Column(visible=False, elem_id="addift_finish") as parts["finish"]:
        parts["choice"] = gr.Radio([], label="Saved LoRAs", visible=False, elem_id="addift_choice")
        parts["result"] = html("result")
        if in_webui:
            with gr.Row(elem_id="addift_insert"):
                parts["insert_txt2img"] = _button("insert_txt2img", "Insert into txt2img", "primary")
                parts["insert_img2img"] = _button("insert_img2img", "Insert into img2img", "primary")
        parts |= _build_test("Test in txt2img" if in_webui else "Test with another prompt")
    parts["strip"] = html("strip")
    with gr.Row(visible=False, elem_id="addift_kept") as parts["kept"]:
        parts["scrub"] = gr.Slider(
            0, 100_000, value=0, step=1, label="Kept step", visible=False, elem_id="addift_scrub",
            info="Walk through the steps that were kept, and save the one that you like best.",
        )  # fmt: skip
        parts["save_step"] = _button("save_step", "Save this step")
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
        parts["test"] = _button("test", title)
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
        parts["look_at_folder"] = _button("look_at_folder", "Look")
    parts["batch_overwrite"] = gr.Checkbox(
        False, label="Overwrite LoRAs of the same names", elem_id="addift_batch_overwrite"
    )
    parts |= {name: html(name) for name in ("batch_hint", "batch_alert", "batch_faces", "batch")}
    parts["batch_train"] = _button("batch_train", "Train all", "primary", visible=False)
    return parts


def build_queue() -> Components:
    """All jobs, with the buttons that stop and start the queue."""
    parts: Components = {}
    with gr.Row(elem_id="addift_queue_buttons"):
        parts["pause"] = _button("pause", "Pause")
        parts["resume"] = _button("resume", "Go on", "primary", visible=False)
    return parts | {name: html(name) for name in ("queue_alert", "queue_faces", "queue", "queue_news")}
