"""The components of the form, by name: the three ways to pairs, name and preset, and the settings."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lib_addift.config.presets import PRESETS
from lib_addift.ui import compat, form, render, settings_view
from lib_addift.ui.parts import Components, button, html

_PRESET_HELP = (
    "concept: whatever could be said in words; try it first. For a LoRA in layers: action for a shape, such as eyes or "
    "a pose; style for texture, palette, line; detail for a small thing."
)
_FILES = "Pictures"
_FILES_HINT = (
    '<p class="addift-hint">Drop, choose or paste two pictures, or many: they are matched by name, as face.png and '
    "face_target.png, with captions (face.txt) and masks (face_mask.png).</p>"
)
_CAPTION_HELP = (
    "Without the change. The more it says, the less else the LoRA changes. Empty: the prompt of the settings."
)
_WAIT = '<p class="addift-hint">Pictures that you generate meanwhile wait until training has finished.</p>'
_WORDS_HELP = "Of each {a|b} one is chosen for each pair, the same in both prompts. The more both say, the better."
_WORDS_HINT = (
    '<p class="addift-hint">The loaded model draws pairs from two prompts that differ in the change. Look at them, '
    "untick those that are not right, and press Train.</p>"
)
_VARY_HINT = (
    "<p class=\"addift-hint\">The loaded model draws the change of the pair in 'My pictures' on other pictures. More "
    "pairs make a better LoRA, where the model knows the change.</p>"
)
_TEXT_LINES = {"prompt": 2, "preview_prompt": 2}


def build_form(in_webui: bool) -> Components:
    """The pairs, the name and the preset, and the button that starts it."""
    parts: Components = {}
    with gr.Tabs(elem_id="addift_ways"):
        with gr.TabItem("My pictures", id="addift_way_mine", elem_id="addift_way_mine"):
            parts |= _build_pictures()
        with gr.TabItem("From words", id="addift_way_words", elem_id="addift_way_words"):
            parts |= _build_words()
        with gr.TabItem("Vary my pair", id="addift_way_vary", elem_id="addift_way_vary"):
            parts |= _build_vary()
    parts["drawing"] = html("drawing")
    parts["stop_drawing"] = button("stop_drawing", "Stop drawing", "stop", visible=False)
    parts |= {name: html(name) for name in ("pairs_faces", "pairs")}
    parts |= _build_basics()
    parts["train"] = button("train", "Train", "primary")
    parts["alert"] = html("alert")
    if in_webui:
        html("wait_note", _WAIT)
    return parts


def _build_pictures() -> Components:
    html("files_hint", _FILES_HINT)
    parts: Components = {"files": compat.files(_FILES, "addift_files")}
    with gr.Row(elem_id="addift_pictures"):
        parts["original"] = compat.picture("Original", "addift_original")
        parts["swap"] = button("swap", "⇄ Swap")
        parts["target"] = compat.picture("Target", "addift_target")
    parts["doctor"] = html("doctor")
    parts["pair_caption"] = gr.Textbox(
        label="Caption: what both pictures show", info=_CAPTION_HELP, lines=2, elem_id="addift_pair_caption"
    )
    with gr.Accordion("Mask of this pair", open=False, elem_id="addift_pair_box"):
        parts["pair_mask"] = compat.picture("Mask: white where to learn", "addift_pair_mask")
    parts["new_pair"] = button("new_pair", "+ Another pair")
    return parts


def _build_words() -> Components:
    html("words_hint", _WORDS_HINT)
    return {
        "words_original": gr.Textbox(
            label="Prompt of the originals", placeholder="a photo of a {young|old} {man|woman}, open eyes", lines=2,
            elem_id="addift_words_original",
        ),
        "words_target": gr.Textbox(
            label="Prompt of the targets", info=_WORDS_HELP, lines=2,
            placeholder="a photo of a {young|old} {man|woman}, closed eyes", elem_id="addift_words_target",
        ),
        **_build_drawing("words", "Draw pairs"),
    }  # fmt: skip


def _build_vary() -> Components:
    html("vary_hint", _VARY_HINT)
    caption = gr.Textbox(
        label="What your pictures show", info="May be empty. It stands before the words of each variation.",
        placeholder="a photo of a woman", elem_id="addift_vary_caption",
    )  # fmt: skip
    return {"vary_caption": caption, **_build_drawing("vary", "Draw variations")}


def _build_drawing(way: str, text: str) -> Components:
    """How many, and the button."""
    name = "draw_words" if way == "words" else "draw_variations"
    count = f"{way}_count"
    with gr.Row(elem_id=f"addift_{way}_row", elem_classes="addift-draw-row"):
        number = gr.Number(
            form.WAYS[count], label="How many pairs", precision=0, min_width=120, elem_id=f"addift_{count}"
        )
        return {count: number, name: button(name, text, "primary")}


def _build_basics() -> Components:
    values, parts = form.empty_form(), Components()
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
    return parts


def build_settings() -> Components:
    """Every setting, in groups."""
    values, parts = form.empty_form(), Components()
    with gr.Accordion("Advanced", open=False, elem_id="addift_advanced"):
        html("settings_search", settings_view.SEARCH)
        parts |= {name: html(name) for name in ("settings_changed", "settings_note", "settings_marks")}
        for heading, names in form.parts().items():
            with gr.Column(elem_id=f"addift_group_{names[0]}", elem_classes="addift-group"):
                html(f"heading_{names[0]}", f'<h4 class="addift-heading">{render.escape(heading)}</h4>')
                with gr.Row(elem_id=f"addift_part_{names[0]}", elem_classes="addift-part"):
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
