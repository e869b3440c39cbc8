"""The tab as gradio builds it, and that nothing else of it needs gradio."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib_addift.ui.form import SETTINGS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_importing_the_package_loads_no_gradio() -> None:
    program = "import sys, lib_addift.ui, lib_addift.ui.handlers; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


# The layout. In a process of its own: gradio leaves event loops behind, and its imports warn of each other.


PROGRAM = """
import json, sys
from pathlib import Path
from lib_addift.jobs.queue import Jobs
from lib_addift.ui.tab import build_tab
from tests.support.fake_host import FakeHost
jobs = Jobs(FakeHost(Path(sys.argv[1])))
for in_webui in (False, True):
    blocks = build_tab(jobs, in_webui=in_webui).blocks.values()
    named = {block.elem_id: block for block in blocks if getattr(block, "elem_id", None)}
    facts = {name: [getattr(block, "label", None), getattr(block, "info", None)] for name, block in named.items()}
    print(json.dumps([facts, all(b.do_not_save_to_config for b in blocks)]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines that PROGRAM prints: of the tab on its own, and of that in a WebUI."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("lora"))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-2:]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs gradio")
@pytest.mark.parametrize("in_webui", [False, True])
def test_the_tab_is_built_from_the_settings(built: list[str], in_webui: bool) -> None:
    parts, is_kept_out_of_the_webuis_defaults = json.loads(built[in_webui])
    assert is_kept_out_of_the_webuis_defaults
    for name, setting in SETTINGS.items():
        label, info = parts[f"addift_set_{name}"]
        assert label == setting.metadata["label"]
        assert info.startswith(setting.metadata["help"])
    assert all(elem_id.startswith("addift_") for elem_id in parts)
    assert parts["addift_test_mode"][0] == "Several LoRAs"
    assert ("addift_insert_txt2img" in parts) == in_webui
    assert ("addift_wait_note" in parts) == in_webui
