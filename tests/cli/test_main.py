"""The command line as a whole: wrong usage, and `inspect`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from lib_addift.cli.main import main
from lib_addift.demo.run import CHECKPOINT
from tests.support.command_line import Files, command, refused
from tests.support.lora_files import make_tensors

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


def test_inspect_prints_metadata_of_a_stranger_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {
        "ss_training_comment": "\x1b[2J\x1b]0;title\x07\r\nTrained on: yours",
        "ss_sd_model_name": "\u202egnp.exe",
    }
    save_file(make_tensors(), path, metadata)
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"Method: \x1b[2J\x1b]0;title\x07\r\nTrained on: yours" in text
    assert r"Trained on: \u202egnp.exe" in text


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a pipe of a POSIX shell")
def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(tmp_path: Path) -> None:
    """As `| head` does: the program finds nobody who reads."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lib_addift", "settings"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=ROOT, timeout=300, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")
