"""The page and its plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lib_addift.experiments.lab import report
from lib_addift.experiments.lab.summary import Summary
from tests.support.lab import SMALL


@pytest.mark.slow
def test_the_page_keeps_what_a_person_wrote(summary: Summary, tmp_path: Path) -> None:
    page = report.write_report(summary, SMALL, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "nothing was learnt." in text
    page.write_text(text.replace(report.BEGIN, f"{report.BEGIN}\nOurs *won*.\n"), encoding="utf-8")
    for _ in range(2):
        report.write_report(summary, SMALL, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.count("Ours *won*.") == 1
    assert text.count(report.BEGIN) == text.count(report.END) == 1
    figures = json.loads((tmp_path / "lab.json").read_text(encoding="utf-8"))
    assert figures["cells"]["eyes"]["ours"][0]["steps_to_90"] == 20
    pictures = sorted((tmp_path / "lab").iterdir())
    assert [path.name for path in pictures] == ["edges.png", "growth.png", "hits.png", "steps.png"]
    assert all(f"](lab/{path.name})" in text for path in pictures)
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width > 600
