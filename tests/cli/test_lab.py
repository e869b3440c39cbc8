"""The command `lab`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_addift.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--world", "moon"], "--world moon does not exist: use one of faces"),
        (["--tasks", "nose"], "--tasks nose does not exist"),
        (["--methods", "magic"], "--methods magic does not exist"),
        (["--seeds", "0"], "whole numbers from 1 to 99, the half 'tune'"),
        (["--seeds", "100"], "or choose the other --half"),
        (["--half", "test", "--seeds", "100,99"], "whole numbers from 100 to 199, the half 'test'"),
        (["--seeds", "one"], "whole numbers from 1 to 99"),
        (["--workers", "-1"], "below 0"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.slow
def test_the_quick_laboratory_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["lab", "--quick", "--tasks", "mouth", "--workers", "1", "--out", str(tmp_path)]
    assert main([*arguments, "--docs", str(tmp_path / "docs")]) == 0
    output = capsys.readouterr().out
    assert "2/2 faces_mouth_words_1" in output
    assert "min left" in output
    summary = json.loads((tmp_path / "docs" / "lab.json").read_text(encoding="utf-8"))["summary"]
    ours, words = summary["tune"]["faces"]["mouth"], summary["tune_variants"]["faces"]["words"]["mouth"]
    assert words["hits"] == words["words_short_hits"] == 1
    assert ours["hits"] > ours["base_hits"] > ours["reverse_hits"]
    assert ours["words_short_flips"] == words["short_flips"]
    assert main([*arguments, "--docs", str(tmp_path / "docs")]) == 0
    assert "measured before" in capsys.readouterr().out
