"""The tab as gradio builds it: the layout of its four parts, and which event calls which handler."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from lib_addift import TITLE
from lib_addift.jobs.queue import Jobs
from lib_addift.ui import compat, form, layout
from lib_addift.ui.batch_handlers import BatchHandlers
from lib_addift.ui.handlers import Changes, Handlers
from lib_addift.ui.pairs import PICTURES
from lib_addift.ui.pairs_handlers import PairsHandlers
from lib_addift.ui.panels import PANELS
from lib_addift.ui.parts import Components, html
from lib_addift.ui.queue_handlers import QueueHandlers
from lib_addift.ui.restoring import STASH, script, stashed
from lib_addift.ui.row_buttons import RowButtons
from lib_addift.ui.settings_handlers import SettingsHandlers
from lib_addift.ui.tools import FIELDS
from lib_addift.ui.tools_handlers import ToolHandlers
from lib_addift.ui.tools_tab import bind_tools, build_tools

# Puts the next button that was pressed in the queue into `act`, or '' when there is none.
_NEXT_ROW_BUTTON = "(_act, seen) => [window.addift?.nextRowButton() ?? '', seen]"
_SEQUENTIAL = (
    "refresh",
    "keep_draft",
    "keep_pictures",
    "look",
    "do",
)  # pressed by JavaScript, each after the answer to the one before
_FILLING = ("preset", "method")  # they fill in other fields; the same two as in JavaScript
_BATCH = ("batch_folder", "batch_overwrite")
_PAIR = ("pair_caption", "shown_pair")
_TEST = ("test_prompt", "test_negative", "test_seed", "test_mode")
_TYPED = (*form.FORM, *form.WAYS, *_PAIR)  # what the server remembers of the form, besides the pictures
_FILLED = tuple(name for name in form.FORM if name not in PANELS)


def build_tab(jobs: Jobs, *, in_webui: bool = False) -> Any:
    """The whole tab as a gr.Blocks; outside of a WebUI nothing can be sent to a prompt."""
    handlers = _handlers(jobs)
    with compat.blocks(TITLE) as page:
        with gr.Column(elem_id="addift_root"):
            parts: Components = {**layout.hidden_texts(), "page": html("page"), **layout.hidden_buttons()}
            parts |= layout.hidden_pictures()
            parts["live"] = html("live")
            with gr.Tabs(elem_id="addift_tabs"):
                with gr.TabItem("Pair", id="addift_tab_pair", elem_id="addift_tab_pair"):
                    parts |= layout.build_pair(in_webui)
                with gr.TabItem("Batch", id="addift_tab_batch", elem_id="addift_tab_batch"):
                    parts |= layout.build_batch()
                with gr.TabItem("Queue", id="addift_tab_queue", elem_id="addift_tab_queue"):
                    parts |= layout.build_queue()
                with gr.TabItem("Tools", id="addift_tab_tools", elem_id="addift_tab_tools"):
                    parts |= build_tools()
        _bind(parts, handlers)
        _bind_scripts(parts)
    for block in page.blocks.values():
        block.do_not_save_to_config = True  # a WebUI's ui-config.json would override the defaults of later versions
    return page


@functools.cache
def _handlers(jobs: Jobs) -> Handlers:
    """One for each Jobs, so that the draft survives a WebUI's 'Reload UI', which builds the tab anew."""
    return Handlers(jobs)


def _bind(parts: Components, handlers: Handlers) -> None:
    """Bind every event that Python answers: component, handler, inputs, and what it may change besides the panels."""
    bind = _binder(parts)
    tools = [name for name in FIELDS if name not in PANELS]
    _bind_restore(parts, bind, handlers, ["name", *_FILLED, *form.WAYS, *_PAIR, *_TEST, *_BATCH, *tools])
    bind("refresh", handlers.refresh, [], [])
    bind("keep_draft", handlers.keep_draft, _TYPED, [], preprocess=False)
    bind("look", handlers.show_step, ["scrub"], [], preprocess=False)
    _bind_pairs(bind, PairsHandlers(handlers), handlers)
    bind("preset", handlers.choose_preset, form.FORM, list(form.preset_values("action")), event="input")
    method = list(form.method_values("addift", "action"))
    bind("method", handlers.choose_method, form.FORM, method, event="input")
    bind("train", handlers.train, [*_TYPED, *PICTURES], _TEST)
    bind("stop", handlers.stop, [], [])
    bind("stop_keep", handlers.stop_keep, [], [])
    bind("jobs", handlers.show_job, ["jobs"], _TEST, event="input", preprocess=False)
    bind("save_step", handlers.save_step, [], [])
    bind("choice", handlers.show_file, ["choice"], [], event="input")
    bind("again", handlers.fill_from_job, [], _FILLED)
    bind("test", handlers.draw_test, _TEST, [])
    batch = BatchHandlers(handlers)
    bind("look_at_folder", batch.scan_folder, _BATCH, [])
    bind("batch_folder", batch.scan_folder, _BATCH, [], event="submit")
    bind("batch_overwrite", batch.allow_overwriting, _BATCH, [], event="input")
    bind("batch_train", batch.train_all, _BATCH, [])
    queue = QueueHandlers(handlers)
    rows = RowButtons(queue, PairsHandlers(handlers), SettingsHandlers(handlers))
    bind("do", rows.press_row_button, ["act"], [*_FILLED, *_TEST], js=_NEXT_ROW_BUTTON)
    bind("pause", queue.pause, [], [])
    bind("resume", queue.resume, [], [])
    bind_tools(bind, ToolHandlers(handlers))


def _bind_pairs(bind: Callable[..., Any], pairs: PairsHandlers, handlers: Handlers) -> None:
    """Bind the ways in which pairs come into the form."""
    shown = ["shown_pair"]
    bind("keep_pictures", handlers.take_pictures, [*PICTURES, *shown], [])
    for name in PICTURES:
        bind(name, handlers.take_pictures, [name, *shown], [], event="change")
    bind("swap", handlers.swap, [*PICTURES, *shown], [])
    bind("files", pairs.add_files, ["files"], [], event="upload")
    bind("new_pair", pairs.new_pair, [], [])
    bind("draw_words", pairs.draw_words, _TYPED, [])
    bind("draw_variations", pairs.draw_variations, _TYPED, [])
    bind("stop_drawing", pairs.stop_drawing, [], [])


def _bind_restore(parts: Components, bind: Callable[..., Any], handlers: Handlers, names: Sequence[str]) -> None:
    """Bind the opening of a page: the server's answer goes into the stash, and from there into untouched fields."""
    initial = {name: parts[name].value for name in names}
    done = bind("restore", stashed(handlers.restore, initial), [], [*names, *STASH])
    fields = [*names, *PICTURES]
    moved = [[parts[name] for name in each] for each in ([*STASH, *fields], [*fields, "page"])]
    compat.on(done.then, None, *moved, js=script(fields))


def _binder(parts: Components) -> Callable[..., Any]:
    """A function that binds an event of a component to a handler, between which values travel by name.

    It returns the event, to which what comes after the answer can be bound.
    """

    def bind(
        name: str,
        handler: Callable[[Mapping[str, Any]], Changes],
        inputs: Sequence[str],
        changes: Sequence[str],
        *,
        event: str = "click",
        preprocess: bool = True,
        js: str | None = None,
    ) -> Any:
        sent, outputs = [*inputs, "seen"], [*dict.fromkeys([*changes, *PANELS, "seen"])]

        def call(*values: Any) -> Any:
            return compat.by_position(handler(dict(zip(sent, values, strict=True))), outputs)

        components = ([parts[each] for each in names] for names in (sent, outputs))
        done = compat.on(getattr(parts[name], event), call, *components, preprocess=preprocess, js=js)
        # Answers of gradio may arrive in another order than the calls: after each of them the page asks once more.
        after = "answered" if name in _SEQUENTIAL else "filled" if name in _FILLING else "refresh"
        compat.on(done.then, None, js=f"() => window.addift?.{after}()")
        return done

    return bind


def _bind_scripts(parts: Components) -> None:
    """Bind the events that JavaScript answers alone."""
    for tab in ("txt2img", "img2img"):
        if f"insert_{tab}" in parts:
            compat.on(parts[f"insert_{tab}"].click, None, js=f"() => window.addift?.insert('{tab}')")
