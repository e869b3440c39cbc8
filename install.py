"""Without arguments, as a WebUI calls it: check that the host has what the extension needs; install and change nothing.

With a command: make .venv beside this file, install the tested versions there, run the command in it.
Only the standard library, and no syntax newer than Python 3.7, so that an old Python gets a sentence and no traceback.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
HOST_PACKAGES = ("torch", "numpy", "PIL", "safetensors")  # import names; every WebUI brings them

PINS = "lib_addift/standalone_requirements.txt"
BARE_PINS = "lib_addift/standalone_requirements_no_deps.txt"
UI_PINS = "lib_addift/ui_requirements.txt"
RAY_PINS = "lib_addift/ray_requirements.txt"
TEST_PINS = "tests/requirements.txt"
CONSTRAINED = (PINS, UI_PINS, RAY_PINS, TEST_PINS)
CONSTRAINTS = "lib_addift/constraints.txt"  # what these need in turn, pinned too; .ci/pin.py writes it
# The gradio of A1111 and that of Forge, each in a folder of its own. What goes with them is not made for Python 3.12.
WEBUI_PINS = ("tests/browser/gradio_3.41.2.txt", "tests/browser/gradio_4.40.0.txt")
PIP_OPTIONS = {BARE_PINS: ["--no-deps"]}
for _name in CONSTRAINED:
    PIP_OPTIONS[_name] = ["--constraint", CONSTRAINTS]
for _name in WEBUI_PINS:
    PIP_OPTIONS[_name] = ["--no-deps", "--no-compile", "--upgrade", "--target", ".venv/" + Path(_name).stem]

COMMANDS = {  # command: the pins it needs, and what Python runs then
    "demo": ((PINS, BARE_PINS), ["-m", "lib_addift", "demo"]),
    "ui": ((PINS, BARE_PINS, UI_PINS), ["-m", "lib_addift", "ui"]),
    "test": (
        (PINS, BARE_PINS, UI_PINS, RAY_PINS, TEST_PINS, *(WEBUI_PINS if sys.version_info < (3, 12) else ())),
        ["-m", "pytest"],
    ),
}
USAGE = """\
usage: python3 install.py COMMAND [ARGUMENTS]

  demo   train on the bundled tiny world and measure the result (demo --help lists the arguments)
  ui     open the training tab in a browser, without a WebUI (ui --help lists the arguments)
  test   run the tests of the gate; --all: everything; --fast: only what is quick; other arguments go to pytest

Each makes .venv beside install.py on its first run and installs the tested versions there.
Without a command, as a WebUI calls it, install.py checks what the WebUI has and installs nothing.
"""


class SetupError(Exception):
    """What could not be set up, and the remedy."""


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Run one command, or the check. Returns the command's exit code, 1 for a failed set-up, 2 for wrong usage."""
    try:
        _check_python()
        if not arguments:
            return _check_host()
        name, *rest = arguments
        if name not in COMMANDS:
            return _show_usage(name)
        pins, module = COMMANDS[name]
        python = _set_up(root, pins, name)
        return _run([str(python), *module, *rest], root, cwd=root if name == "test" else None)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _show_usage(name: str) -> int:
    if name in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    print(f"error: '{name}' is no command of install.py.\n\n{USAGE}", end="", file=sys.stderr)
    return 2


def _check_python() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 - the very sentence for those who have an older one
        version = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"this is Python {version} and sd-webui-addift needs 3.10 or newer: run it with a newer one.")


def _check_host() -> int:
    missing = [name for name in HOST_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"sd-webui-addift needs {', '.join(missing)}, which a WebUI brings and '{sys.executable}' lacks; nothing "
            "was installed: repair the WebUI, or run 'python3 install.py demo' to try the extension without one."
        )
    if sys.stdout.isatty():  # a person; a WebUI reads the output through a pipe and wants none
        print("Nothing to install: this Python has what a WebUI brings. To see a demo: python3 install.py demo")
    return 0


def _set_up(root: Path, pins: tuple[str, ...], command: str) -> Path:
    """The Python of .venv with these pins installed. Pins whose digest is in their stamp are done already."""
    venv = root / ".venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamps = {name: venv / f"addift-{Path(name).parent.name}-{Path(name).stem}.sha256" for name in pins}
    digests = {name: _digest(root, name) for name in pins}
    stale = [name for name in pins if not python.exists() or _read(stamps[name]) != digests[name]]
    if stale:
        _ensure_venv(root, venv, python)
        print("Installing the tested versions into .venv; the first time, PyTorch can be some GB.", flush=True)
    for name in stale:
        stamps[name].unlink(missing_ok=True)
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *PIP_OPTIONS[name], "-r", name]
        code = _run(pip, root, cwd=root)
        if code:
            raise SetupError(
                f"'{_shown(pip)}' failed with exit code {code} in '{root}': read pip's last lines above, check the "
                "network, the free disk space and that this is a 64-bit Python 3.10 to 3.14, and run "
                f"'python3 install.py {command}' again."
            )
        stamps[name].write_text(digests[name], encoding="ascii")
    return python


def _digest(root: Path, name: str) -> str:
    """sha256, hex, of what pip is told: a pins file and, where it has them, its constraints."""
    files = [name, *([CONSTRAINTS] if name in CONSTRAINED else [])]
    return hashlib.sha256(b"".join((root / each).read_bytes() for each in files)).hexdigest()


def _ensure_venv(root: Path, venv: Path, python: Path) -> None:
    """Make .venv, or mend one that has no working pip because it was moved or left half-made."""
    if python.exists() and _run([str(python), "-m", "pip", "--version"], root, quiet=True) == 0:
        return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        package = f"python3.{sys.version_info[1]}-venv"
        raise SetupError(
            f"'{sys.executable}' has no module venv: install it (on Debian and Ubuntu: 'sudo apt install {package}'), "
            "or use a Python from python.org."
        )
    print(f"Making '{venv}'.", flush=True)
    # --clear only where nothing can run anyway: a venv that another tool made without pip keeps what it holds.
    command = [sys.executable, "-m", "venv", *([] if python.exists() else ["--clear"]), str(venv)]
    code = _run(command, root)
    if code:
        raise SetupError(
            f"'{_shown(command)}' failed with exit code {code}: check that '{root}' may be written to and has free "
            f"space, delete '{venv}' and run this again."
        )


def _run(command: list[str], root: Path, cwd: Path | None = None, quiet: bool = False) -> int:
    """The exit code of a command that sees this package and no other packages from PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    output = subprocess.DEVNULL if quiet else None
    # Ctrl+C reaches the child too: let it end in its own way and return its code.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(command, cwd=cwd, env=environment, stdout=output, stderr=output, check=False).returncode
    except OSError as error:
        raise SetupError(f"'{_shown(command)}' cannot run ({error}): delete .venv and run this again.") from error
    finally:
        signal.signal(signal.SIGINT, before)


def _shown(command: list[str]) -> str:
    return subprocess.list2cmdline(command)


def _read(stamp: Path) -> str:
    return stamp.read_text(encoding="ascii", errors="replace") if stamp.is_file() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
