"""The command `ui`: the training tab in a browser, without a WebUI."""

from __future__ import annotations

import argparse
import importlib.util
import threading
from pathlib import Path
from typing import Any

from lib_addift.cli.options import add_model, open_host
from lib_addift.errors import HostError
from lib_addift.files import DATA


def add_parser(commands: Any) -> None:
    """Add the command."""
    ui = commands.add_parser("ui", help="open the training tab in a browser, without a WebUI")
    ui.add_argument("--checkpoint", type=Path, help="an SD1.5 or SDXL file (default: the bundled tiny model)")
    ui.add_argument("--lora-dir", type=Path, default=Path("models/Lora"), help="where LoRAs go (default: models/Lora)")
    ui.add_argument("--port", type=int, help="of the page's address (default: the first free one from 7860 on)")
    ui.add_argument("--listen", action="store_true", help="let other computers open the page: it has no password")
    ui.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a further name under which the page may be opened, such as a proxy's (may be given several times)",
    )  # fmt: skip
    add_model(ui)
    ui.add_argument("--jobs-db", type=Path, metavar="FOLDER", help="keep the queue there (default: in the extension)")
    ui.add_argument("--no-browser", action="store_true", help="print the address only")
    ui.set_defaults(run=run_ui)


def run_ui(options: argparse.Namespace) -> int:
    """Serve the tab until Ctrl-C. Returns 0."""
    if importlib.util.find_spec("gradio") is None:
        raise HostError(
            "the tab needs gradio: run 'python3 install.py ui', which installs it, or 'pip install gradio'."
        )
    from lib_addift.demo.run import CHECKPOINT
    from lib_addift.jobs.local_runner import LocalRunner
    from lib_addift.jobs.queue import Jobs
    from lib_addift.jobs.store import JobStore
    from lib_addift.ui.guard import Site
    from lib_addift.ui.standalone import launch

    host = open_host(options, options.checkpoint or CHECKPOINT, options.lora_dir)
    # Not the WebUI's: that has another model and another LoRA folder.
    jobs = Jobs(host, JobStore(options.jobs_db or DATA / "ui"), LocalRunner())
    site = Site(options.port, options.listen, tuple(options.allow_host))
    address = launch(jobs, site, open_browser=not options.no_browser, block=False)
    print(f"Train Difference LoRA on {host.model_title}: {address}\nLoRAs go to {options.lora_dir}. Ctrl-C ends it.")
    jobs.start()
    try:
        while not threading.Event().wait(1):  # in short waits, which Ctrl-C ends on Windows too
            pass
    except KeyboardInterrupt:
        print("\nending after the current step; trainings that wait go on at the next start.")
        jobs.close()
    return 0
