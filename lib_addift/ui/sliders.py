"""The difference sliders as gradio components, for a WebUI's txt2img and img2img."""

from __future__ import annotations

from typing import Any, Protocol

import gradio as gr
from PIL import Image

from lib_addift.hosts.prompt_tag.sliders import COUNT, NONE, ROW
from lib_addift.ui import compat, render

_PICTURE = (640, 128)  # px at most
_TEXTS = {
    "name": ("Difference LoRA", ""),
    "weight": ("Weight", "1 draws the change, -1 its opposite."),
    "from": ("From timestep", "Sampling begins at 1000: the high ones decide pose and shape."),
    "to": ("To timestep", "And ends at 0: the low ones decide texture and detail."),
}


class Loras(Protocol):
    """The LoRAs that a slider can have: see hosts/sliders."""

    def names(self) -> list[str]:
        """Those that were made here."""
        ...

    def picture(self, name: str) -> Image.Image | None:
        """The strip of one of them."""
        ...


def build_sliders(tab: str, loras: Loras) -> list[Any]:
    """An accordion with six rows, of which the first and those after a row in use are shown.

    Args:
        tab: "txt2img" or "img2img", for the components' ids.
        loras: Where names and pictures come from.

    Returns:
        The components, row by row, in the order of `ROW`.
    """
    names = loras.names()
    with gr.Accordion("Difference sliders", open=False, elem_id=f"addift_sliders_{tab}"):
        rows = [_build_row(f"addift_slider_{tab}_{number + 1}", names, is_first=not number) for number in range(COUNT)]
        refresh = gr.Button("Look for new LoRAs", size="sm", elem_id=f"addift_sliders_refresh_{tab}")
    _bind(rows, refresh, loras)
    components = [row[name] for row in rows for name in ROW]
    for component in components:
        component.do_not_save_to_config = True  # a WebUI's ui-config.json would override the defaults of later versions
    return components


def _build_row(elem_id: str, names: list[str], *, is_first: bool) -> dict[str, Any]:
    """A row's components, by the names in `ROW`, with its `box` and `picture`."""
    with gr.Column(visible=is_first, elem_id=elem_id, elem_classes=["addift-slider"]) as box:
        with gr.Row():
            label, _info = _TEXTS["name"]
            name = gr.Dropdown(
                [NONE, *names], value=NONE, label=label, allow_custom_value=True, elem_id=f"{elem_id}_name", scale=2
            )  # fmt: skip
            weight = _slider("weight", elem_id, low=-2, high=2, step=0.05)
        picture = gr.HTML("", elem_id=f"{elem_id}_picture")
        with gr.Row():
            steps = {end: _slider(end, elem_id, low=0, high=1000, step=10) for end in ("from", "to")}
    return {"name": name, "weight": weight, **steps, "box": box, "picture": picture}


def _slider(name: str, elem_id: str, *, low: float, high: float, step: float) -> Any:
    label, info = _TEXTS[name]
    return gr.Slider(
        low, high, value=ROW[name], step=step, label=label, info=info, elem_id=f"{elem_id}_{name}", scale=3,
        min_width=160,
    )  # fmt: skip


def _bind(rows: list[dict[str, Any]], refresh: Any, loras: Loras) -> None:
    """Show the strip of a LoRA that is chosen, and one more row than are in use; look for LoRAs again."""
    dropdowns, pictures, boxes = ([row[name] for row in rows] for name in ("name", "picture", "box"))

    def show(*names: str) -> list[Any]:
        used = max((number + 1 for number, name in enumerate(names) if name != NONE), default=0)
        return [_picture(loras, name) for name in names] + [gr.update(visible=row <= used) for row in range(COUNT)]

    def choices() -> list[Any]:
        names = [NONE, *loras.names()]
        return [gr.update(choices=names) for _row in rows]

    for dropdown in dropdowns:
        # `blur` too: gradio 3 tells of the first letter that is typed, and of no later one.
        for event in (dropdown.change, dropdown.blur):
            compat.on(event, show, dropdowns, [*pictures, *boxes])
    compat.on(refresh.click, choices, [], dropdowns)


def _picture(loras: Loras, name: str) -> str:
    image = loras.picture(name) if name and name != NONE else None
    if image is None:
        return ""
    image = image.copy()
    image.thumbnail(_PICTURE)
    return render.picture(image, f"{name} at its weights, from the opposite to the change", "slider-strip")
