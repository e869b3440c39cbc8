"""The layout holds: imports point downward, the core needs no host, and what tests share stands in tests/support."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.imports import FLOORS, folder, imports

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lib_addift"
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
IMPORTS = imports(PACKAGE)
WEBUI = {"modules", "modules_forge", "backend", "ldm", "ldm_patched", "networks"}  # packages of the WebUIs
# Who may import what of other packages: folders or modules of lib_addift.
ONLY_IN = {
    **dict.fromkeys(WEBUI, ("lib_addift.hosts",)),
    "gradio": ("lib_addift.ui",),
    "fastapi": ("lib_addift.api",),
    "pydantic": ("lib_addift.api",),
    "starlette": ("lib_addift.api", "lib_addift.ui"),
    "diffusers": ("lib_addift.hosts.standalone", "lib_addift.hosts.standalone_models", "lib_addift.experiments"),
    "transformers": ("lib_addift.hosts.standalone", "lib_addift.hosts.standalone_models", "lib_addift.experiments"),
    "tokenizers": ("lib_addift.hosts.tokenizer",),
    "ray": ("lib_addift.jobs.ray",),
}
_SAME_FLOOR = {
    ("__main__", "cli"),
    ("cli", "webui"),
}  # programs: one starts the other, and both know where jobs are kept


def test_every_folder_has_a_floor() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__"} == set(FLOOR_OF)


def test_imports_point_downward() -> None:
    """Also those inside functions, and those that only a type checker reads."""
    wrong = []
    for importer, imported, line in IMPORTS:
        one, other = folder(importer), folder(imported)
        if not imported.startswith("lib_addift.") or one == other:
            continue
        if FLOOR_OF[other] >= FLOOR_OF[one]:
            wrong.append(f"{importer}:{line} imports {imported}")
    assert not wrong


def test_no_two_modules_import_each_other() -> None:
    """No circle, however long, whatever stands inside functions."""
    after: dict[str, set[str]] = {}
    for importer, imported, _line in IMPORTS:
        if imported.startswith("lib_addift."):
            after.setdefault(importer, set()).add(imported)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(after.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(after):
        visit(name, ())


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    wrong = [
        f"{importer}:{line}"
        for importer, imported, line in IMPORTS
        if imported.partition(".")[0] == package
        and not any(importer == place or importer.startswith(f"{place}.") for place in ONLY_IN[package])
    ]
    assert not wrong


_CORE = ("errors", "files", "dtypes", "config", "data", "lora", "diffusion", "evaluation", "training", "sets", "jobs")
_PROGRAM = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"gradio", "fastapi", "diffusers", "transformers", "ray", "modules", "backend"}:
            raise ImportError(f"the core must not import {name}")
sys.meta_path.insert(0, Refuse())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print([name for name in sys.modules if name.startswith("lib_addift.hosts.")])
"""


@pytest.mark.slow
def test_the_core_runs_in_a_bare_webui_and_importing_it_does_nothing() -> None:
    files = [path for name in _CORE for path in (PACKAGE / f"{name}.py", *(PACKAGE / name).rglob("*.py"))]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files if path.exists()]
    assert "lib_addift.training.loop" in names
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM, *names],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]", "importing the core prints nothing and loads no host"
    assert result.stderr == ""


def test_what_tests_share_stands_in_support() -> None:
    """No module of the tests imports from a file of tests or from a conftest."""
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            else:
                continue
            if any(name.startswith("test_") or name == "conftest" for name in names):
                found.append(f"{path.relative_to(TESTS).as_posix()}:{node.lineno}")
    assert not found, "what tests share goes to tests/support"
