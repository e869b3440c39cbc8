"""The core runs in a bare WebUI: it imports no host, no gradio and no diffusers, and importing it does nothing."""

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lib_addift"
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
