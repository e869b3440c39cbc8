"""The command line as a whole: wrong usage, and `inspect`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.cli.main import main
from lib_addift.demo.run import CHECKPOINT
from tests.support.command_line import Files, command, refused

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["train"],
        ["train", "--name", "x"],
        ["demo", "--preset", "fast"],
        ["demo", "--attribute", "nose"],
        ["inspect"],
        ["inspect", "a", "b"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_inspect_tells_name_rank_and_figures(
    fake_host: None, pair_files: Files, lora_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(pair_files, lora_dir))
    capsys.readouterr()
    assert main(["inspect", str(lora_dir / "blink.safetensors")]) == 0
    text = capsys.readouterr().out
    for words in ("blink.safetensors", "Rank: 2", "Steps: 3", "recovery: ", "Sampling steps: 2", "fake.safetensors"):
        assert words in text, words


@pytest.mark.parametrize("file", ["nowhere.safetensors", ROOT / "pyproject.toml", ROOT, CHECKPOINT])
def test_inspect_refuses_what_is_no_lora(capsys: pytest.CaptureFixture[str], file: str | Path) -> None:
    refused(["inspect", str(file)], capsys)
