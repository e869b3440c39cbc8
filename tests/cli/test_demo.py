"""The command `demo`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lib_addift.demo.run
from lib_addift.cli.main import main
from tests.support.command_line import SMALL, files


@pytest.mark.long
@pytest.mark.slow
def test_demo_writes_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the way only: a model trained for 3 steps shows nothing."""
    monkeypatch.setattr(lib_addift.demo.run, "FACES", 2)
    assert main(["demo", "--out", str(tmp_path / "out"), *SMALL]) == 0
    assert {"closed_eyes.safetensors", "grid.png", "report.json"} <= set(files(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert Path(report["lora"]).is_file()
    assert report["steps"] == 3
    assert report["train_seconds"] > 0
    for rate in ("base_rate", "target_rate", "reverse_rate", "off_target_change", "recovery"):
        assert 0 <= report[rate] <= 1
    assert set(report) == {
        "lora", "steps", "train_seconds", "base_rate", "target_rate", "reverse_rate", "off_target_change", "recovery",
    }  # fmt: skip
    assert "weight 1" in capsys.readouterr().out
