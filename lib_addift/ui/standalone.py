"""The tab as a page of its own, without a WebUI."""

from __future__ import annotations

import json
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
    page = build_tab(jobs)
    css = (_ROOT / "style.css").read_text(encoding="utf-8")
    return compat.launch(page, site, css=css, script=_script(), open_browser=open_browser, block=block)


def _script() -> str:
    """What a WebUI would load by itself: the translations, and the scripts in the order of their names."""
    tables = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in _files("localizations/*.json")}
    scripts = [path.read_text(encoding="utf-8") for path in _files("javascript/*.js")]
    return "\n".join([f"window.addiftLocalizations = {json.dumps(tables)};", *scripts])


def _files(pattern: str) -> list[Path]:
    return sorted(_ROOT.glob(pattern))
