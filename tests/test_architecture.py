"""The core runs in a bare WebUI: it imports no host, no gradio and no diffusers, and importing it does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lib_addift"
CORE = sorted(f"lib_addift.{p.stem}" for p in PACKAGE.glob("*.py") if p.stem not in ("__main__", "__init__"))

PROGRAM = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"gradio", "fastapi", "diffusers", "transformers", "ray", "modules", "backend"}:
            raise ImportError(f"the core must not import {name}")
sys.meta_path.insert(0, Refuse())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
loaded = [m for m in sys.modules if m.startswith("lib_addift.hosts.") and m.split(".")[2] not in ("base", "names")]
print(loaded)
"""


def test_the_core_imports_no_host_gradio_or_diffusers() -> None:
    assert "lib_addift.training.loop" in CORE
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *CORE],
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
