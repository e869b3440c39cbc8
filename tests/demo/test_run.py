"""What the demo promises, measured through the command line with default settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import lib_addift.demo.run
from lib_addift.cli.main import main
from lib_addift.demo.run import FACES
from lib_addift.lora.file import read_lora

pytestmark = pytest.mark.slow


_PROMISES = [  # the mouth: cli/test_batch.py
    ("sd15", "eyes", 1, 16),
    pytest.param("sd15", "eyes", 1, FACES, marks=pytest.mark.long),
    pytest.param("sd15", "eyes", 2, FACES, marks=pytest.mark.long),
    pytest.param("sd15", "style", 1, FACES, marks=pytest.mark.long),
    pytest.param("sdxl", "eyes", 1, FACES, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("model", "attribute", "seed", "faces"), _PROMISES)
def test_the_demo_keeps_its_promise(
    *, model: str, attribute: str, seed: int, faces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lib_addift.demo.run, "FACES", faces)
    arguments = ["--model", model, "--attribute", attribute, "--out", str(tmp_path), "--set", f"seed={seed}"]
    assert main(["demo", *arguments]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(report) == {
        "lora", "steps", "train_seconds", "base_rate", "target_rate", "reverse_rate", "off_target_change", "recovery",
    }  # fmt: skip
    assert 30 <= report["steps"] <= 100
    assert report["target_rate"] >= 0.9
    assert report["reverse_rate"] <= 0.05
    assert report["off_target_change"] <= 0.1
    assert report["recovery"] >= 0.25  # of this pair; it says little of others
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 1000
    _, metadata = read_lora(Path(report["lora"]))
    assert json.loads(metadata["addift.config"])["seed"] == seed
