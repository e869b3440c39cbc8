"""What differs between gradio 3.41 (A1111), 4.40 (Forge) and 6 (standalone). No other module asks for the version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from lib_addift.errors import HostError
from lib_addift.ui.form import Props
from lib_addift.ui.guard import Guard, Site

MAJOR = int(gr.__version__.split(".", maxsplit=1)[0])


def picture(label: str, elem_id: str, *, visible: bool = True) -> Any:
    """A slot for one picture, which Python gets in the mode of the upload, and which comes back without loss."""
    options: dict[str, Any]
    if MAJOR < 4:
        options = {"source": "upload", "show_download_button": False}
    else:
        options = {"sources": ["upload", "clipboard"], "format": "png"}
        options |= {"buttons": ["fullscreen"]} if MAJOR >= 6 else {"show_download_button": False}
    return gr.Image(
        label=label, type="pil", image_mode=None, height=260, interactive=True, elem_id=elem_id,
        visible=visible, **options,
    )  # fmt: skip


def files(label: str, elem_id: str) -> Any:
    """A box for files, of which Python gets the paths; it takes all kinds, as captions come with pictures."""
    return gr.File(label=label, file_count="multiple", height=136, interactive=True, elem_id=elem_id)


def blocks(title: str) -> Any:
    """An empty gr.Blocks, whose style sheet and script come from the WebUI, or from `launch`."""
    return gr.Blocks(title=title, analytics_enabled=False)


def on(
    trigger: Callable[..., Any],
    function: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    js: str | None = None,
    preprocess: bool = True,
) -> Any:
    """Bind an event, outside of gradio's queue, as handlers are quick; without a spinner and not in gradio's API."""
    options: dict[str, Any] = {"queue": False, "show_progress": "hidden", "preprocess": preprocess}
    options |= {"api_visibility": "private"} if MAJOR >= 6 else {"api_name": False}
    if js is not None:
        options["_js" if MAJOR < 4 else "js"] = js
    return trigger(function, list(inputs) or None, list(outputs) or None, **options)


def by_position(changes: Mapping[str, Any], outputs: Sequence[str]) -> Any:
    """What a gradio handler returns for `outputs`; a component that is not among the changes stays as it is."""
    values = [_change(changes[name]) if name in changes else gr.update() for name in outputs]
    return values if len(values) != 1 else values[0]


def _change(value: Any) -> Any:
    return gr.update(**value) if isinstance(value, Props) else value


def launch(page: Any, site: Site, *, css: str, script: str, open_browser: bool, block: bool) -> str:
    """Serve a page with a style sheet and a script; returns its address. Raises HostError when the port is taken."""
    with page:
        on(page.load, None, js=f"() => {{ {script} }}")  # 3.41 offers no other way to add a script
    options: dict[str, Any] = {}
    if MAJOR >= 6:
        # The theme's own fonts would be fetched from the network.
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        options = {"css": css, "theme": theme}
    else:
        page.css = css
    if MAJOR >= 4:
        options["show_error"] = True
    if MAJOR >= 5:
        options["ssr_mode"] = False
    options |= {"server_name": site.address, "server_port": site.port, "inbrowser": open_browser}
    options["app_kwargs"] = {"middleware": [Middleware(Guard, site=site)]}
    try:
        _app, address, _share = page.queue().launch(quiet=True, prevent_thread_lock=True, **options)
    except OSError as error:
        raise HostError(
            f"port {site.port or '7860 to 7959'} is taken or not allowed: choose another with --port."
        ) from error
    if block:
        page.block_thread()
    return str(address)
