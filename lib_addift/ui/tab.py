"""The tab's layout, and which button calls which handler. What the handlers do is in handlers.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from lib_addift import TITLE
from lib_addift.config.presets import PRESETS
from lib_addift.hosts.prompt_tag.syntax import MERGE, MODES
from lib_addift.jobs.queue import Jobs
from lib_addift.ui import compat, form, render
from lib_addift.ui.handlers import Changes, Handlers
from lib_addift.ui.panels import PANELS
from lib_addift.ui.tools import FIELDS
from lib_addift.ui.tools_handlers import ToolHandlers
from lib_addift.ui.tools_tab import bind_tools, build_tools

_PRESET_HELP = "action: a shape, such as eyes or a pose. style: texture, palette, line. detail: a small thing."
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
_ACT = "(_act, seen) => [window.addift?.act() ?? '', seen]"  # the button that was pressed in the queue, if any
_QUESTIONS = ("refresh", "keep_draft", "look", "do")  # asked by JavaScript, one after the other
_FILLING = ("preset", "method")  # they fill in other fields; the same two as in JavaScript
Components = dict[str, Any]


def build_tab(jobs: Jobs, *, in_webui: bool = False) -> Any:
    """The whole tab as a gr.Blocks; outside of a WebUI nothing can be sent to a prompt."""
    handlers = _handlers(jobs)
    with compat.blocks(TITLE) as page:
        with gr.Column(elem_id="addift_root"):
            parts: Components = {**_hidden_texts(), "page": _html("page"), **_hidden_buttons()}
            parts["live"] = _html("live")
            with gr.Tabs(elem_id="addift_tabs"):
                with gr.TabItem("Pair", id="addift_tab_pair", elem_id="addift_tab_pair"):
                    parts |= _build_pair(in_webui)
                with gr.TabItem("Batch", id="addift_tab_batch", elem_id="addift_tab_batch"):
                    parts |= _build_batch()
                with gr.TabItem("Queue", id="addift_tab_queue", elem_id="addift_tab_queue"):
                    parts |= _build_queue()
                with gr.TabItem("Tools", id="addift_tab_tools", elem_id="addift_tab_tools"):
                    parts |= build_tools()
        _bind(parts, handlers)
        _bind_scripts(parts)
    for block in page.blocks.values():
        block.do_not_save_to_config = True  # a WebUI's ui-config.json would override the defaults of later versions
    return page


@functools.cache
def _handlers(jobs: Jobs) -> Handlers:
    """One for each Jobs, so that the draft outlives a WebUI's 'Reload UI', which builds the tab anew."""
    return Handlers(jobs)


def _html(name: str, value: str = "") -> Any:
    return gr.HTML(value, elem_id=f"addift_{name}")


def _hidden_texts() -> Components:
    """seen: what the page has, as Panels.changes wrote it. act: in the place of what `_ACT` gives.

    No gr.State: that cannot be had without preprocessing.
    """
    return {name: gr.Textbox("", label=name, visible=False, elem_id=f"addift_{name}") for name in ("seen", "act")}


def _button(name: str, text: str, variant: str = "secondary", *, visible: bool = True) -> Any:
    size = "lg" if variant == "primary" else "sm"
    return gr.Button(text, variant=variant, size=size, visible=visible, elem_id=f"addift_{name}")


def _hidden_buttons() -> Components:
    """Pressed by JavaScript, one after the other: when the page opens, while a job runs, after input."""
    return {name: _button(name, name) for name in ("restore", "refresh", "keep_draft", "look", "do")}


def _build_pair(in_webui: bool) -> Components:
    parts: Components = {}
    _html("intro", _INTRO)
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
    parts["doctor"] = _html("doctor")
    with gr.Row(elem_id="addift_basics"):
        with gr.Column(min_width=200, scale=2):
            parts["name"] = gr.Textbox(
                label="Name", info="What you type in prompts, as in <lora:name:1>.", placeholder="closed_eyes",
                max_lines=1, elem_id="addift_name",
            )  # fmt: skip
            parts["name_note"] = _html("name_note")
            parts["overwrite"] = gr.Checkbox(
                False, label="Overwrite the LoRA of this name", visible=False, elem_id="addift_overwrite"
            )
        parts["preset"] = gr.Radio(
            list(PRESETS), value=values["preset"], label="Preset: what differs?", info=_PRESET_HELP, min_width=270,
            scale=3, elem_id="addift_preset",
        )  # fmt: skip
    parts["train"] = _button("train", "Train", "primary")
    parts["alert"] = _html("alert")
    if in_webui:
        _html("wait_note", _WAIT)
    with gr.Accordion("Advanced", open=False, elem_id="addift_advanced"):
        parts["settings_note"] = _html("settings_note")
        for heading, names in form.parts().items():
            _html(f"heading_{names[0]}", f'<h4 class="addift-heading">{render.escape(heading)}</h4>')
            with gr.Row(elem_id=f"addift_part_{names[0]}"):
                parts |= {name: _setting(name, values[name]) for name in names}
    return parts


def _setting(name: str, value: Any) -> Any:
    """The component of one setting, made from what TrainConfig says of it."""
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
    # No bounds here: gradio would answer with a message of its own, before ours that names the setting.
    return gr.Number(precision=0 if form.SETTINGS[name].type == "int" else None, step=step, min_width=200, **common)


def _build_job(in_webui: bool) -> Components:
    parts = {
        "jobs": gr.Dropdown([], label="Trainings", visible=False, elem_id="addift_jobs"),
        "progress": _html("progress", render.WELCOME),
    }
    with gr.Row(elem_id="addift_job_buttons"):
        parts["stop_keep"] = _button("stop_keep", "Stop and keep", visible=False)
        parts["stop"] = _button("stop", "Stop", "stop", visible=False)
        parts["again"] = _button("again", "Train again with these settings", visible=False)
    with gr.Column(visible=False, elem_id="addift_finish") as parts["finish"]:
        parts["choice"] = gr.Radio([], label="Saved LoRAs", visible=False, elem_id="addift_choice")
        parts["result"] = _html("result")
        if in_webui:
            with gr.Row(elem_id="addift_insert"):
                parts["insert_txt2img"] = _button("insert_txt2img", "Insert into txt2img", "primary")
                parts["insert_img2img"] = _button("insert_img2img", "Insert into img2img", "primary")
        parts |= _build_test("Test in txt2img" if in_webui else "Test with another prompt")
    parts["strip"] = _html("strip")
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
        parts["test_grid"] = _html("test_grid")
    return parts


def _build_batch() -> Components:
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
    parts |= {name: _html(name) for name in ("batch_hint", "batch_alert", "batch_faces", "batch")}
    parts["batch_train"] = _button("batch_train", "Train all", "primary", visible=False)
    return parts


def _build_queue() -> Components:
    parts: Components = {}
    with gr.Row(elem_id="addift_queue_buttons"):
        parts["pause"] = _button("pause", "Pause")
        parts["resume"] = _button("resume", "Go on", "primary", visible=False)
    return parts | {name: _html(name) for name in ("queue_alert", "queue_faces", "queue", "queue_news")}


def _bind(parts: Components, handlers: Handlers) -> None:
    """Every event that Python answers: its trigger, what it is told, and what it may change besides the panels."""
    pictures, test = list(form.PICTURES), ["test_prompt", "test_negative", "test_seed", "test_mode"]
    batch = ["batch_folder", "batch_overwrite"]
    filled = [name for name in form.FORM if name not in PANELS]
    fields_of_tools = [name for name in FIELDS if name not in PANELS]
    bind = _binder(parts)
    bind("restore", handlers.restore, [], [*filled, *pictures, *test, *batch, *fields_of_tools, "page"])
    bind("refresh", handlers.refresh, [], [])
    bind("keep_draft", handlers.keep_draft, form.FORM, [], preprocess=False)
    bind("look", handlers.look, ["scrub"], [], preprocess=False)
    bind("do", handlers.act, ["act"], [*filled, *pictures, *test], js=_ACT)
    for name in pictures:
        bind(name, handlers.take_pictures, [name], [], event="change")
    bind("swap", handlers.swap, pictures, pictures)
    bind("preset", handlers.choose_preset, form.FORM, list(form.preset_values("action")), event="input")
    method = list(form.method_values("addift", "action"))
    bind("method", handlers.choose_method, form.FORM, method, event="input")
    bind("train", handlers.train, [*form.FORM, *pictures], test)
    bind("stop", handlers.stop, [], [])
    bind("stop_keep", handlers.stop_keep, [], [])
    bind("jobs", handlers.show_job, ["jobs"], test, event="input")
    bind("save_step", handlers.save_step, [], [])
    bind("choice", handlers.choose, ["choice"], [], event="input")
    bind("again", handlers.again, [], [*filled, *pictures])
    bind("test", handlers.test, test, [])
    bind("look_at_folder", handlers.look_at_folder, batch, [])
    bind("batch_folder", handlers.look_at_folder, batch, [], event="submit")
    bind("batch_overwrite", handlers.allow_overwriting, batch, [], event="input")
    bind("batch_train", handlers.train_all, batch, [])
    bind("pause", handlers.pause, [], [])
    bind("resume", handlers.resume, [], [])
    bind_tools(bind, ToolHandlers(handlers))


def _binder(parts: Components) -> Callable[..., None]:
    """A function that binds an event of a component to a handler."""

    def bind(
        name: str,
        handler: Callable[[Mapping[str, Any]], Changes],
        inputs: Sequence[str],
        changes: Sequence[str],
        *,
        event: str = "click",
        preprocess: bool = True,
        js: str | None = None,
    ) -> None:
        told, outputs = [*inputs, "seen"], [*changes, *PANELS, "seen"]

        def call(*values: Any) -> Any:
            return compat.by_position(handler(dict(zip(told, values, strict=True))), outputs)

        components = ([parts[each] for each in names] for names in (told, outputs))
        done = compat.on(getattr(parts[name], event), call, *components, preprocess=preprocess, js=js)
        # Gradio lets answers overtake each other: whatever came last, a look at how things stand follows it.
        after = "answered" if name in _QUESTIONS else "filled" if name in _FILLING else "refresh"
        compat.on(done.then, None, js=f"() => window.addift?.{after}()")

    return bind


def _bind_scripts(parts: Components) -> None:
    """The events that JavaScript answers alone."""
    for tab in ("txt2img", "img2img"):
        if f"insert_{tab}" in parts:
            compat.on(parts[f"insert_{tab}"].click, None, js=f"() => window.addift?.insert('{tab}')")
