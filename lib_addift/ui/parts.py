"""Small parts of which the layouts are made."""

from __future__ import annotations

from typing import Any

import gradio as gr

Components = dict[str, Any]


def html(name: str, value: str = "") -> Any:
    """An HTML component, whose id in the page is addift_`name`."""
    return gr.HTML(value, elem_id=f"addift_{name}")


def button(name: str, text: str, variant: str = "secondary", *, visible: bool = True) -> Any:
    """A button, large where it is the primary one; its id in the page is addift_`name`."""
    size = "lg" if variant == "primary" else "sm"
    return gr.Button(text, variant=variant, size=size, visible=visible, elem_id=f"addift_{name}")
