"""The command `bench` on the tiny model: what it writes. What is fast is for docs/performance.md, not for tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_addift.cli.main import main


@pytest.mark.long
def test_the_bench_writes_its_table_and_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "--device", "cpu", "--steps", "2", "--rounds", "1", "--sets", "2", "--no-proof"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    page, figures = ((tmp_path / f"bench.{kind}").read_text(encoding="utf-8") for kind in ("md", "json"))
    assert page.strip() in capsys.readouterr().out
    found = json.loads(figures)
    assert list(found["contenders"]) == ["rival", "same", "ours"]
    for each in found["contenders"].values():
        (run,) = each["runs"]
        assert 0 < run["first_step"] < run["last_step"]
        assert run["done"] is None
        assert each["operations_a_step"] > 1e8
        assert 1e6 < each["peak_bytes"] < 1e9
    rival, same, ours = found["contenders"].values()
    assert [each["turns_a_step"] for each in (rival, same, ours)] == [1, 1, 2]
    assert same["weight_bytes_a_step"] < rival["weight_bytes_a_step"], "references go in batches"
    assert found["together"][0]["count"] == 2
    assert "tiny model in float32, 64 px, 2 steps" in page


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--steps", "1", "--steps 1"),
        ("--rounds", "0", "--rounds 0"),
        ("--pixels", "100", "--pixels 100"),
        ("--sets", "2,x", "--sets x"),
    ],
)
def test_wrong_numbers_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, named: str
) -> None:
    assert main(["bench", option, value, "--out", str(tmp_path / "out")]) == 1
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
