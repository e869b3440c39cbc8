"""What the extension adds to a WebUI: the tab, the API, the LoRA tag. One set of jobs for as long as the WebUI runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from lib_addift.hosts import detect_host
from lib_addift.jobs.local_runner import LocalRunner
from lib_addift.jobs.queue import Jobs
from lib_addift.jobs.store import JobStore

TITLE, TAB_ID = "Train Difference LoRA", "addift"
DATA = Path(__file__).resolve().parents[1] / "data"  # jobs outlive the WebUI
_SETTLE = 5.0  # seconds after its start until the WebUI goes on with jobs from before


@functools.cache
def jobs() -> Jobs:
    """Survives 'Reload UI', which runs the scripts again and keeps this module and its worker thread."""
    return Jobs(detect_host(), JobStore(DATA), LocalRunner())


def tabs() -> list[tuple[Any, str, str]]:
    """For `on_ui_tabs`."""
    from lib_addift import ui

    return [(ui.build_tab(jobs(), host_name=jobs().host.name), TITLE, TAB_ID)]


def start(_demo: Any, app: Any) -> None:
    """For `on_app_started`: teaches `<lora:...>` from= and compose=, adds /addift/v1 when there is an API, and goes on
    with the jobs that an earlier start has left.
    """
    from modules import shared

    from lib_addift.hosts.prompt_tag import webui as lora_tag

    lora_tag.wrap_lora_tag(jobs().host)
    options = shared.cmd_opts
    if options.api or options.nowebui:
        from lib_addift import api

        credentials = _credentials(options.api_auth)
        api.add_routes(app, jobs(), credentials=credentials, picture_dirs=_picture_dirs(shared.opts))
    jobs().start(after=_SETTLE)


def _credentials(api_auth: str | None) -> dict[str, str] | None:
    """'user:password,other:word' as the WebUI reads it; None when its API is open."""
    if not api_auth:
        return None
    return {user: password for user, _, password in (entry.partition(":") for entry in api_auth.split(","))}


def _picture_dirs(options: Any) -> list[Path]:
    """Folders from which the API may read pictures: where the WebUI itself writes them."""
    names = ("outdir_samples", "outdir_txt2img_samples", "outdir_img2img_samples", "outdir_extras_samples")
    folders = [getattr(options, name, "") for name in names]
    return [Path(folder) for folder in folders if folder]
