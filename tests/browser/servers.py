"""The three ways in which the tab is served, each as a process of its own over the tiny world."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib_addift.demo.run import CHECKPOINT

ROOT = Path(__file__).resolve().parents[2]
_START = 180  # s until a server has to answer; a cold disk and a busy machine can take a minute


@dataclass(frozen=True)
class Setup:
    """A way to serve the tab: inside a page like a WebUI's under that WebUI's gradio, or on its own."""

    name: str
    gradio: str = ""  # the version that the WebUI has; '' = whatever .venv has
    in_webui: bool = False

    @property
    def packages(self) -> Path:
        """The folder with the WebUI's gradio and what that needs, which install.py fills."""
        return Path(sys.prefix) / f"gradio_{self.gradio}"

    def problem(self) -> str:
        """Why this set-up cannot be tested with this Python; '' when it can."""
        if self.in_webui and not (self.packages / "gradio").is_dir():
            where = f"gradio {self.gradio} is not in '{self.packages}'"
            return f"{where}: 'python3 install.py test' puts it there, with Python 3.10 or 3.11"
        if not self.in_webui and importlib.util.find_spec("gradio") is None:
            return "gradio is not installed: 'python3 install.py test' does it"
        return ""

    def command(self, port: int, lora_dir: Path) -> list[str]:
        """What serves the page."""
        if self.in_webui:
            return [sys.executable, str(Path(__file__).with_name("webui_page.py")), str(port), str(lora_dir)]
        options = {
            "--checkpoint": CHECKPOINT,
            "--lora-dir": lora_dir,
            "--port": port,
            "--jobs-db": lora_dir.parent / "jobs",
        }
        arguments = [str(part) for pair in options.items() for part in pair]
        return [sys.executable, "-m", "lib_addift", "ui", "--no-browser", *arguments]

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables of the server's process; gradio keeps its temporary files in `folder`."""
        paths = [self.packages, ROOT] if self.in_webui else [ROOT]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",  # the browser needs the other core
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": str(folder / "gradio"),
        }


SETUPS = (
    Setup("gradio-3.41.2", "3.41.2", in_webui=True),
    Setup("gradio-4.40.0", "4.40.0", in_webui=True),
    Setup("standalone"),
)


@dataclass
class Server:
    """A running server."""

    setup: Setup
    address: str
    lora_dir: Path
    log: Path

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def serve(setup: Setup, folder: Path) -> Iterator[Server]:
    """Start a server, wait until it answers, and end it afterwards."""
    port, lora_dir, log = _free_port(), folder / "Lora", folder / "server.log"
    lora_dir.mkdir(parents=True)
    server = Server(setup, f"http://127.0.0.1:{port}/", lora_dir, log)
    with log.open("wb") as output:
        process = subprocess.Popen(
            setup.command(port, lora_dir), cwd=ROOT, env=setup.environment(folder), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _wait_until_it_answers(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(server: Server, process: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{server.setup.name} ended with code {process.returncode}:\n{server.output()[-3000:]}")
        try:
            with opener.open(server.address, timeout=10) as answer:
                answer.read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"{server.setup.name} did not answer within {_START} s:\n{server.output()[-3000:]}")
