"""Every text of the tab and of the sliders has a translation in every file of localizations/."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from tests.support.texts import ROOT, one_line, parts_of, script_texts, source_texts

FILES = {path.stem: path for path in (ROOT / "localizations").glob("*.json")}
TEXTS = source_texts() | dict.fromkeys(script_texts(), "addift.js")
# Labels, helps, buttons and names of tabs, as gradio gets them. In a process of its own: see tests/ui/test_tab.py.
PROGRAM = """
import json, sys
from pathlib import Path
import gradio as gr
from lib_addift.jobs.queue import Jobs
from lib_addift.ui.sliders import build_sliders
from lib_addift.ui.tab import build_tab
from tests.support.fake_host import FakeHost

class Loras:
    names = picture = staticmethod(lambda *_: [])

with gr.Blocks() as sliders:
    build_sliders("txt2img", Loras())
pages = (build_tab(Jobs(FakeHost(Path(sys.argv[1]))), in_webui=True), sliders)
blocks = [block for page in pages for block in page.blocks.values() if getattr(block, "visible", True)]
texts = {getattr(block, name, None) for block in blocks for name in ("label", "info", "placeholder")}
texts |= {block.value for block in blocks if isinstance(block, (gr.Button, gr.HTML))}
print(json.dumps(sorted(text for text in texts if isinstance(text, str))))
"""
_NAMES = {"/pictures/sets", "closed_eyes", "LoRA+ ratio"}  # the same in every language
_HIDDEN = {"do", "keep_draft", "keep_pictures", "look", "refresh", "restore"}  # buttons that JavaScript presses
_BOUNDS = re.compile(r" \([^()]* to [^()]*\)$")  # behind a help, which the script that translates takes apart


@pytest.fixture(params=sorted(FILES))
def table(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(json.loads(FILES[request.param].read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What PROGRAM prints."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("lora"))]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return list(json.loads(output.splitlines()[-1]))


def test_the_languages() -> None:
    """Called as in other extensions, whose files a WebUI merges with ours."""
    assert set(FILES) == {"ja_JP", "zh_CN"}


def test_every_text_of_the_source_is_translated(table: dict[str, str]) -> None:
    missing = {text: place for text, place in TEXTS.items() if text not in table}
    assert not missing, "put these texts into localizations/*.json"


def test_every_translation_fills_in_the_values_of_its_text(table: dict[str, str]) -> None:
    wrong = []
    for text, translation in table.items():
        count, places = text.count("{}"), re.findall(r"\{(\d*)\}", translation)
        in_order, numbered = [""] * count, {str(number + 1) for number in range(count)}
        if places != in_order and set(places) != numbered:
            wrong.append(text)
    assert not wrong


def test_translations_are_lines_without_spaces_at_the_ends(table: dict[str, str]) -> None:
    assert not [text for text, translation in table.items() if " ".join(translation.split()) != translation]
    assert not [text for text in table if " ".join(text.split()) != text]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs gradio")
def test_every_label_of_the_page_is_translated(table: dict[str, str], labels: list[str]) -> None:
    assert "Train" in labels
    shown = {part for label in labels for part in (parts_of(label) if "<" in label else [one_line(label)])}
    shown = {_BOUNDS.sub("", text) for text in shown if re.search("[A-Za-z]{2}", text)}
    missing = shown - table.keys() - _NAMES - _HIDDEN
    assert not missing, "put these texts into localizations/*.json"


def test_there_is_a_text_for_every_translation(table: dict[str, str]) -> None:
    """Of those with several words: single ones are labels."""
    assert not [text for text in table if len(re.findall("[A-Za-z-]{2,}", text)) > 1 and text not in TEXTS]
