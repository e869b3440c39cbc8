"""The difference sliders as gradio builds them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In a process of its own: gradio leaves event loops behind, and its imports warn of each other.
PROGRAM = """
import json
import gradio as gr
from PIL import Image
from lib_addift.ui.sliders import build_sliders

class Loras:
    found = ["smile"]
    def names(self):
        return self.found
    def picture(self, name):
        return Image.new("RGB", (2560, 512)) if name == "smile" else None

with gr.Blocks() as page:
    components = build_sliders("txt2img", Loras())
events = page.fns.values() if isinstance(page.fns, dict) else page.fns
calls = {fn.name: fn.fn for fn in events}
Loras.found = ["smile", "wink"]
print(json.dumps({
    "ids": [component.elem_id for component in components],
    "values": [component.value for component in components],
    "saved": [not component.do_not_save_to_config for component in components],
    "labels": sorted({component.label for component in components}),
    "shown": calls["show"]("smile", "None", "wink", "None", "None", "None"),
    "first": calls["show"](*["None"] * 6),
    "choices": calls["choices"]()[0]["choices"],
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs gradio")
def test_six_rows_that_appear_as_they_are_needed() -> None:
    command = [sys.executable, "-c", PROGRAM]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    facts = json.loads(output.splitlines()[-1])
    assert facts["ids"][:5] == [
        *(f"addift_slider_txt2img_1_{name}" for name in ("name", "weight", "from", "to")),
        "addift_slider_txt2img_2_name",
    ]
    assert facts["values"] == ["None", 0.0, 1000.0, 0.0] * 6
    assert not any(facts["saved"])
    assert facts["labels"] == ["Difference LoRA", "From timestep", "To timestep", "Weight"]
    assert [row["visible"] for row in facts["first"][6:]] == [True, *[False] * 5]
    assert [row["visible"] for row in facts["shown"][6:]] == [True] * 4 + [False] * 2
    smile, *others = facts["shown"][:6]
    assert 'class="addift-slider-strip"' in smile
    assert len(smile) < 30_000, "a small copy, not the whole strip"
    assert others == [""] * 5
    assert facts["choices"] == ["None", "smile", "wink"]
