"""The command `lab`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_addift.cli import lab as cli_lab
from lib_addift.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "nose"], "--tasks nose does not exist"),
        (["--methods", "magic"], "--methods magic does not exist"),
        (["--seeds", "0"], "whole numbers from 1 on"),
        (["--seeds", "one"], "whole numbers from 1 on"),
        (["--workers", "-1"], "below 0"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_lab.importlib.util, "find_spec", lambda _name: None)
    assert main(["lab", "--out", str(tmp_path / "out")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.slow
def test_the_quick_laboratory_shows_that_ours_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--methods", "words,ours", "--workers", "1", "--out", str(tmp_path)]
    assert main(["lab", *arguments, "--docs", str(tmp_path / "docs")]) == 0
    output = capsys.readouterr().out
    assert "5/5 eyes+mouth_ours_1" in output
    figures = json.loads((tmp_path / "docs" / "lab.json").read_text(encoding="utf-8"))
    eyes = figures["cells"]["eyes"]
    assert eyes["words"][0]["hits"] == eyes["ours"][0]["hits"] == 1
    assert eyes["ours"][0]["steps_to_90"] <= 60
    assert eyes["ours"][0]["recovery"] > 0.5
    assert main(["lab", *arguments, "--docs", str(tmp_path / "docs")]) == 0
    assert "measured before" in capsys.readouterr().out
