"""The tab: the only part of the extension that knows gradio, and loads it only when the tab is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib_addift.jobs.queue import Jobs

TITLE = "Train Difference LoRA"


def build_tab(jobs: Jobs, *, host_name: str = "standalone") -> Any:
    """The tab as a gr.Blocks; `host_name` is 'standalone' outside of a WebUI, where nothing can be sent to a prompt."""
    from lib_addift.ui.tab import build

    return build(jobs, in_webui=host_name != "standalone")


def launch(jobs: Jobs, *, port: int | None = None, open_browser: bool = True, block: bool = True) -> str:
    """Serve the tab on this computer, without a WebUI; returns its address, after the end when `block` is set."""
    from lib_addift.ui.standalone import serve

    return serve(jobs, port=port, open_browser=open_browser, block=block)
