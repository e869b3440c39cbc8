import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
PIN = re.compile(r"(?P<name>[A-Za-z0-9_-]+)==[0-9][0-9a-z.]*(?: ; python_version (?P<marker><|>=) \"3\.11\")?")


def load_install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("addift_install", REPOSITORY / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load_install()
WEBUI_PINS = install.WEBUI_PINS if sys.version_info < (3, 12) else ()
ALL_PINS = (install.PINS, install.BARE_PINS, install.UI_PINS, install.RAY_PINS, install.TEST_PINS, *WEBUI_PINS)


class FakeShell:
    """Takes the place of subprocess.run: notes every command; `fails` decides which one fails."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.folders: list[Path | None] = []
        self.environments: list[dict[str, str]] = []
        self.fails: Callable[[list[str]], int] = lambda command: 0

    def run(self, command: list[str], *, cwd: Path | None, env: dict[str, str], **_: object) -> SimpleNamespace:
        self.commands.append(command)
        self.folders.append(cwd)
        self.environments.append(env)
        code = self.fails(command)
        if "venv" in command and not code:
            for python in ("bin/python", "Scripts/python.exe"):
                path = Path(command[-1]) / python
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        return SimpleNamespace(returncode=code)

    def pip_installs(self) -> list[str]:
        return [command[-1] for command in self.commands if command[1:4] == ["-m", "pip", "install"]]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> FakeShell:
    shell = FakeShell()
    monkeypatch.setattr(subprocess, "run", shell.run)
    return shell


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the repository as far as install.py looks at it."""
    for name in (*ALL_PINS, install.CONSTRAINTS):
        (tmp_path / "a copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / "a copy" / name)
    return tmp_path / "a copy"


def pins(name: str) -> list[re.Match[str]]:
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    matches = [PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert None not in matches, f"{name} has a line that is not an exact pin"
    return [match for match in matches if match]


# As a WebUI calls it: no arguments, a subprocess, the WebUI's root as folder and PYTHONPATH.


def run_as_a_webui(webui: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    extension = webui / "extensions" / "addift"
    extension.mkdir(parents=True)
    command = [sys.executable, *options, shutil.copy(REPOSITORY / "install.py", extension)]
    before = sorted(webui.rglob("*"))
    environment = {**os.environ, "PYTHONPATH": str(webui)}
    result = subprocess.run(command, cwd=webui, env=environment, capture_output=True, text=True, check=False)
    assert sorted(webui.rglob("*")) == before
    return result


def test_without_arguments_it_is_silent_writes_nothing_and_imports_nothing_slow(tmp_path: Path) -> None:
    for name in (*install.HOST_PACKAGES, "pip", "venv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('takes long to import')", encoding="ascii")
    result = run_as_a_webui(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_without_arguments_a_poor_host_gets_one_sentence_and_no_change(tmp_path: Path) -> None:
    result = run_as_a_webui(tmp_path, "-I", "-S")  # without site-packages
    assert (result.returncode, result.stdout) == (1, "")
    assert "needs torch, numpy, PIL, safetensors, which a WebUI brings" in result.stderr
    assert "nothing was installed" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("missing", install.HOST_PACKAGES)
def test_without_arguments_it_names_only_what_is_missing(
    missing: str, shell: FakeShell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    assert install.main([]) == 1
    assert f"needs {missing}, which" in capsys.readouterr().err
    assert shell.commands == []


def test_an_old_python_gets_a_sentence(
    shell: FakeShell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ast.parse((REPOSITORY / "install.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    monkeypatch.setattr(install, "sys", SimpleNamespace(version_info=(3, 9, 18, "final", 0), stderr=sys.stderr))
    assert install.main(["demo"]) == 1
    assert "this is Python 3.9.18 and sd-webui-addift needs 3.10" in capsys.readouterr().err
    assert shell.commands == []


# On its own.


@pytest.mark.parametrize("word", ["webui", "install", "", "--verbose", "lib_addift"])
def test_an_unknown_word_shows_the_usage(
    word: str, root: Path, shell: FakeShell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install.main([word, "demo"], root) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: '{word}' is no command")
    assert all(f"\n  {command}" in output.err for command in install.COMMANDS)
    assert shell.commands == []
    assert not (root / ".venv").exists()


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_no_error(word: str, root: Path, shell: FakeShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main([word], root) == 0
    assert capsys.readouterr() == (install.USAGE, "")
    assert shell.commands == []


def test_demo_makes_a_venv_installs_the_pins_and_runs_the_demo(root: Path, shell: FakeShell) -> None:
    assert install.main(["demo", "--out", "x y"], root) == 0
    venv, base, bare, demo = shell.commands
    assert venv == [sys.executable, "-m", "venv", "--clear", str(root / ".venv")]
    assert base[-2:] == ["-r", install.PINS]
    assert "--no-deps" not in base
    assert bare[-3:] == ["--no-deps", "-r", install.BARE_PINS]
    assert demo[1:] == ["-m", "lib_addift", "demo", "--out", "x y"]
    assert {Path(command[0]).parent.parent for command in (base, bare, demo)} == {root / ".venv"}
    assert shell.folders[1:] == [root, root, None]  # the demo's paths are relative to where the person is
    assert {environment["PYTHONPATH"] for environment in shell.environments} == {str(root)}


def test_test_adds_its_tools_without_moving_the_pins_and_runs_in_the_repository(root: Path, shell: FakeShell) -> None:
    assert install.main(["test", "-k", "install"], root) == 0
    assert shell.pip_installs() == list(ALL_PINS)
    (tools,) = (command for command in shell.commands if command[-1] == install.TEST_PINS)
    assert tools[-4:-1] == ["--constraint", install.CONSTRAINTS, "-r"]
    assert shell.commands[-1][1:] == ["-m", "pytest", "-k", "install"]
    assert shell.folders[-1] == root


def test_ui_adds_gradio_without_moving_the_pins(root: Path, shell: FakeShell) -> None:
    assert install.main(["ui", "--port", "7999"], root) == 0
    assert shell.pip_installs() == [install.PINS, install.BARE_PINS, install.UI_PINS]
    assert shell.commands[-2][-4:] == ["--constraint", install.CONSTRAINTS, "-r", install.UI_PINS]
    assert shell.commands[-1][1:] == ["-m", "lib_addift", "ui", "--port", "7999"]
    assert shell.folders[-1] is None  # models/Lora is looked for where the person is


@pytest.mark.parametrize("name", WEBUI_PINS)
def test_a_webuis_gradio_gets_a_folder_of_its_own(name: str, root: Path, shell: FakeShell) -> None:
    install.main(["test"], root)
    (command,) = (command for command in shell.commands if command[-1] == name)
    assert {"--no-deps", "--upgrade"} < set(command)  # without --upgrade, pip leaves what is in the folder
    assert command[command.index("--target") + 1] == f".venv/{Path(name).stem}"
    assert shell.folders[shell.commands.index(command)] == root


@pytest.mark.parametrize("code", [0, 1, 5, 130])
def test_the_exit_code_is_the_commands_own(code: int, root: Path, shell: FakeShell) -> None:
    shell.fails = lambda command: code if "pytest" in command else 0
    assert install.main(["test"], root) == code
    assert install.main(["test"], root) == code


def test_a_second_run_starts_at_once(root: Path, shell: FakeShell) -> None:
    install.main(["demo"], root)
    shell.commands.clear()
    assert install.main(["demo", "again"], root) == 0
    assert [command[1:] for command in shell.commands] == [["-m", "lib_addift", "demo", "again"]]


def test_only_what_changed_is_installed_again(root: Path, shell: FakeShell) -> None:
    install.main(["demo"], root)
    install.main(["test"], root)
    assert shell.pip_installs() == list(ALL_PINS)
    with (root / install.BARE_PINS).open("a") as file:
        file.write("other==1.0\n")
    shell.commands.clear()
    install.main(["test"], root)
    assert shell.pip_installs() == [install.BARE_PINS]
    assert not any("venv" in command for command in shell.commands)


def test_new_constraints_are_installed_wherever_they_hold(root: Path, shell: FakeShell) -> None:
    install.main(["test"], root)
    with (root / install.CONSTRAINTS).open("a") as file:
        file.write("other==1.0\n")
    shell.commands.clear()
    install.main(["test"], root)
    assert shell.pip_installs() == list(install.CONSTRAINED)


@pytest.mark.parametrize("broken", ALL_PINS)
def test_a_failed_pip_is_one_sentence_and_the_next_run_goes_on_from_there(
    broken: str, root: Path, shell: FakeShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.fails = lambda command: 2 if command[-1] == broken else 0
    assert install.main(["test"], root) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"-r {broken}' failed with exit code 2" in sentence
    assert "run 'python3 install.py test' again" in sentence
    assert not any("pytest" in command for command in shell.commands)
    done = shell.pip_installs()[:-1]
    assert len(list((root / ".venv").glob("*.sha256"))) == len(done)
    shell.fails = lambda command: 0
    shell.commands.clear()
    assert install.main(["test"], root) == 0
    assert shell.pip_installs() == [name for name in ALL_PINS if name not in done]


def test_a_pin_that_fails_to_change_keeps_no_old_stamp(root: Path, shell: FakeShell) -> None:
    install.main(["demo"], root)
    old = (root / install.PINS).read_bytes()
    (root / install.PINS).write_bytes(old + b"other==1.0\n")
    shell.fails = lambda command: 1 if command[-1] == install.PINS else 0
    assert install.main(["demo"], root) == 1
    (root / install.PINS).write_bytes(old)  # pip may have changed half of it, so the old pins are not known to be there
    shell.fails = lambda command: 0
    shell.commands.clear()
    assert install.main(["demo"], root) == 0
    assert shell.pip_installs() == [install.PINS]


def test_a_failed_venv_is_one_sentence(root: Path, shell: FakeShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.fails = lambda command: 1 if "venv" in command else 0
    assert install.main(["demo"], root) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "-m venv" in sentence
    assert "delete" in sentence
    assert len(shell.commands) == 1


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_python_without_venv_gets_a_sentence(
    missing: str, root: Path, shell: FakeShell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    assert install.main(["demo"], root) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"sudo apt install python3.{sys.version_info.minor}-venv" in sentence
    assert shell.commands == []


def test_a_venv_without_a_working_pip_is_mended_and_keeps_what_it_holds(root: Path, shell: FakeShell) -> None:
    install.main(["demo"], root)
    for stamp in (root / ".venv").glob("*.sha256"):
        stamp.unlink()
    shell.commands.clear()
    shell.fails = lambda command: 1 if command[-1] == "--version" else 0
    assert install.main(["demo"], root) == 0
    assert shell.commands[1] == [sys.executable, "-m", "venv", str(root / ".venv")]
    assert shell.pip_installs() == [install.PINS, install.BARE_PINS]


def test_a_venv_that_cannot_run_is_one_sentence(
    root: Path, shell: FakeShell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install.main(["demo"], root)

    def refuse(command: list[str], **_: object) -> None:
        raise PermissionError(13, "Permission denied", command[0])

    monkeypatch.setattr(subprocess, "run", refuse)
    assert install.main(["demo"], root) == 1
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl+C to whole consoles only")
def test_ctrl_c_lets_the_command_end_in_its_own_way(root: Path) -> None:
    interrupt_parent_and_end = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(0.5); exit(7)"
    before = signal.getsignal(signal.SIGINT)
    assert install._run([sys.executable, "-c", interrupt_parent_and_end], root) == 7
    assert signal.getsignal(signal.SIGINT) is before


# The pins.


@pytest.mark.parametrize("name", ALL_PINS)
@pytest.mark.parametrize("marker", ["<", ">="])
def test_every_pin_is_exact_and_named_once_for_each_python(name: str, marker: str) -> None:
    names = [match["name"] for match in pins(name) if match["marker"] in (None, marker)]
    assert names
    assert len(names) == len(set(names))


def test_every_pin_serves_old_and_new_python_except_tomli() -> None:
    for name in ALL_PINS:
        old = {match["name"] for match in pins(name) if match["marker"] != ">="}
        new = {match["name"] for match in pins(name) if match["marker"] != "<"}
        assert old - new <= {"tomli"}  # part of Python since 3.11
        assert new <= old


def test_torch_is_pinned_for_every_python_in_the_first_call() -> None:
    assert [match["marker"] for match in pins(install.PINS) if match["name"] == "torch"] == [None]
    assert [match["name"] for match in pins(install.BARE_PINS)] == ["open_clip_torch"]
    assert install.PIP_OPTIONS[install.BARE_PINS] == ["--no-deps"]


# What the pins need in turn.


def constraints() -> dict[str, list[Requirement]]:
    """The lines of the constraints, by the package's name."""
    found: dict[str, list[Requirement]] = {}
    for line in (REPOSITORY / install.CONSTRAINTS).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def pinned(name: str, environment: dict[str, str]) -> str:
    """The one version of a package that the constraints have for a Python and a system; '' for none."""
    lines = [each for each in constraints().get(name, []) if each.marker is None or each.marker.evaluate(environment)]
    assert len(lines) <= 1, f"{name} is pinned {len(lines)} times for {environment}"
    return str(lines[0].specifier).removeprefix("==") if lines else ""


def what_is_needed(names: Iterable[str]) -> set[tuple[str, frozenset[str]]]:
    """These packages and all that they need here in turn, each with its extras, as the installed ones say."""
    wanted, found = [Requirement(name) for name in names], set()
    while wanted:
        requirement = wanted.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in found:
            continue
        found.add(key)
        for line in importlib.metadata.distribution(requirement.name).requires or ():
            needed = Requirement(line)
            extras = {"extra": ""}, *({"extra": extra} for extra in requirement.extras)
            if needed.marker is None or any(needed.marker.evaluate(extra) for extra in extras):
                wanted.append(needed)
    return found


def test_all_that_was_installed_is_pinned_to_the_last_package() -> None:
    if not all(list(Path(sys.prefix).glob(f"addift-*{Path(name).stem}.sha256")) for name in install.CONSTRAINED):
        pytest.skip("install.py did not make this Python: it has packages of its own")
    direct = {match["name"] for name in install.CONSTRAINED for match in pins(name) if match["name"] != "tomli"}
    needed = {name for name, _ in what_is_needed(direct)}
    assert len(needed) > 2 * len(direct)
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in needed}  # torch says +cpu
    assert {name: pinned(name, {}) for name in needed} == installed


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", ["linux", "win32", "darwin"])
def test_the_constraints_agree_with_the_pins_and_name_one_version_for_each_system(python: str, system: str) -> None:
    machine = {"linux": "x86_64", "win32": "AMD64", "darwin": "arm64"}[system]
    environment = {
        "python_version": python, "python_full_version": f"{python}.1", "sys_platform": system,
        "platform_machine": machine, "os_name": "nt" if system == "win32" else "posix",
    }  # fmt: skip
    found = {name: pinned(name, environment) for name in constraints()}
    assert sum(map(bool, found.values())) > 100
    lines = (line for name in install.CONSTRAINED for line in (REPOSITORY / name).read_text().splitlines())
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert f"=={found[canonicalize_name(requirement.name)]}" == str(requirement.specifier)


def test_every_constraint_is_one_exact_version() -> None:
    for lines in constraints().values():
        assert all(re.fullmatch(r"==[0-9][0-9a-z.]*", str(each.specifier)) for each in lines)
