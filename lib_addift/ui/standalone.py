"""The tab as a page of its own, without a WebUI."""

from __future__ import annotations

from pathlib import Path

from lib_addift.jobs.queue import Jobs
from lib_addift.ui import compat
from lib_addift.ui.guard import Site
from lib_addift.ui.tab import build_tab

_ROOT = Path(__file__).resolve().parents[2]
_HERE = Site()


def launch(jobs: Jobs, site: Site = _HERE, *, open_browser: bool = True, block: bool = True) -> str:
    """Serve the tab, on this computer only unless `site` says else; returns its address, after the end with `block`.

    Raises HostError when the port is taken.
    """
    css, script = (
        (_ROOT / name).read_text(encoding="utf-8") for name in ("style.css", "javascript/addift.js")
    )  # what a WebUI would load by itself
    page = build_tab(jobs)
    return compat.launch(page, site, css=css, script=script, open_browser=open_browser, block=block)
