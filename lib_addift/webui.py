"""The callbacks of the extension in a WebUI: the tab, the API and the LoRA tag. One Jobs serves them all."""

from __future__ import annotations

import functools
from typing import Any

from lib_addift import TITLE
from lib_addift.files import DATA
from lib_addift.hosts import detect_host
from lib_addift.jobs.local_runner import LocalRunner
from lib_addift.jobs.queue import Jobs
from lib_addift.jobs.store import JobStore

TAB_ID = "addift"
_SETTLE = 5.0  # seconds from the WebUI's start until jobs of an earlier start go on


@functools.cache
def jobs() -> Jobs:
    """The one Jobs of this process. 'Reload UI' runs the scripts again, but keeps this module and its worker thread."""
    return Jobs(detect_host(), JobStore(DATA), LocalRunner())


def tabs() -> list[tuple[Any, str, str]]:
    """For `on_ui_tabs`: the tab, its title and its id."""
    from lib_addift.ui.tab import build_tab

    return [(build_tab(jobs(), in_webui=True), TITLE, TAB_ID)]


def start(_demo: Any, app: Any) -> None:
    """For `on_app_started`: add from= and compose= to `<lora:...>`, add /addift/v1 when the WebUI serves its API, and
    resume the jobs that an earlier start has left.
    """
    from lib_addift.hosts.prompt_tag.webui import wrap_lora_tag
    from lib_addift.hosts.webui import api_access

    wrap_lora_tag(jobs().host)
    access = api_access()
    if access.is_enabled:
        from lib_addift.api.routes import add_routes

        add_routes(
            app, jobs(), credentials=access.credentials, picture_dirs=access.picture_dirs,
            allowed_origins=access.allowed_origins,
        )  # fmt: skip
    jobs().start(after=_SETTLE)
