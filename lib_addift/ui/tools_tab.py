"""The layout of the tab 'Tools'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_addift.config.settings import LAYER_KINDS
from lib_addift.lora.extract import MODEL_PARTS
from lib_addift.ui.tools import FIELDS, OPERATIONS
from lib_addift.ui.tools_handlers import ToolHandlers

_LORAS_HELP = "From the LoRA folder, in the order in which you choose them."
_WEIGHTS_HELP = "merge: one for each LoRA, such as 1, 0.5. subtract: the one of the second LoRA. Empty: 1."
_BLOCKS_HELP = (
    "Such as OUT=1, MID=0.5, IN04=0; blocks that you do not name have 1, ALL=0 changes that. Or the 17 or 26 "
    "numbers of LoRA Block Weight, of SDXL 12 or 20."
)


def build_tools() -> dict[str, Any]:
    """The components by name. tools_view.panels decides which of the rows are visible."""
    parts: dict[str, Any] = {
        "tools_op": gr.Radio(list(OPERATIONS), value=OPERATIONS[0], label="Operation", elem_id="addift_tools_op"),
        "tools_hint": gr.HTML("", elem_id="addift_tools_hint"),
    }
    with gr.Row(elem_id="addift_tools_choice") as parts["tools_choice"]:
        parts["tools_loras"] = gr.Dropdown(
            [], value=[], multiselect=True, label="LoRAs", info=_LORAS_HELP, scale=4, elem_id="addift_tools_loras"
        )
        parts["tools_reload"] = gr.Button("Refresh", size="sm", elem_id="addift_tools_reload")
    with gr.Row(elem_id="addift_tools_weighing") as parts["tools_weighing"]:
        parts["tools_weights"] = _text("tools_weights", "Weights", _WEIGHTS_HELP)
        parts["tools_blocks"] = _text("tools_blocks", "Weights of blocks", _BLOCKS_HELP)
    parts |= {**_build_extraction(), **_build_size()}
    with gr.Row(elem_id="addift_tools_result") as parts["tools_result"]:
        parts["tools_name"] = _text("tools_name", "Name of the new LoRA", "What you type in prompts.")
        parts["tools_overwrite"] = gr.Checkbox(
            False, label="Overwrite the LoRA of this name", min_width=200, elem_id="addift_tools_overwrite"
        )
    parts["tools_run"] = gr.Button("Make it", variant="primary", size="lg", elem_id="addift_tools_run")
    parts["tools_alert"] = gr.HTML("", elem_id="addift_tools_alert")
    parts["tools"] = gr.HTML("", elem_id="addift_tools")
    return parts


def _build_extraction() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(visible=False, elem_id="addift_tools_files") as parts["tools_files"]:
        parts["tools_tuned"] = _text("tools_tuned", "Tuned checkpoint", "Path of a .safetensors file.")
        parts["tools_base"] = _text("tools_base", "Base checkpoint", "From which the other one was made.")
    with gr.Row(visible=False, elem_id="addift_tools_layout") as parts["tools_layout"]:
        parts["tools_layers"] = gr.CheckboxGroup(
            list(LAYER_KINDS), value=list(LAYER_KINDS), label="Kinds of layers", min_width=280,
            elem_id="addift_tools_layers",
        )  # fmt: skip
        parts["tools_parts"] = gr.CheckboxGroup(
            list(MODEL_PARTS), value=list(MODEL_PARTS[:-1]), label="Parts of the model", info="TE is the text encoder.",
            min_width=200, elem_id="addift_tools_parts",
        )  # fmt: skip
    return parts


def _build_size() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(elem_id="addift_tools_size") as parts["tools_size"]:
        parts["tools_rank"] = gr.Number(
            0, precision=0, label="Highest rank", info="Of each layer; 0: no limit. More is cut away (SVD).",
            min_width=200, elem_id="addift_tools_rank",
        )  # fmt: skip
        parts["tools_energy"] = gr.Slider(
            0.5, 1.0, value=1.0, step=0.01, label="Kept energy", info="Share of each layer's energy; 1: all.",
            min_width=200, elem_id="addift_tools_energy",
        )  # fmt: skip
    return parts


def _text(name: str, label: str, info: str) -> Any:
    return gr.Textbox("", label=label, info=info, max_lines=1, min_width=200, elem_id=f"addift_{name}")


def bind_tools(bind: Callable[..., None], handlers: ToolHandlers) -> None:
    """Bind the events with `bind` of tab.py.

    Without preprocessing, in which gradio would refuse LoRAs that were not in the list when the tab was built.
    """
    fields = list(FIELDS)
    bind("tools_op", handlers.choose_tool, fields, [], event="input", preprocess=False)
    bind("tools_reload", handlers.refresh_loras, fields, [], preprocess=False)
    bind("tools_run", handlers.use_tool, fields, ["tools_overwrite"], preprocess=False)
