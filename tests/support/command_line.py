"""The command `train` for the tests: its arguments, what it leaves in a folder, and how it fails."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from lib_addift.cli.main import main
from lib_addift.demo.run import CHECKPOINT
from lib_addift.lora.file import read_lora

SMALL = ("--set", "max_train_steps=3", "--set", "sampling_steps=2", "--set", "rank=2", "--device", "cpu")
Files = tuple[Path, Path]


def command(pair_files: Files, lora_dir: Path, *more: str, **options: Any) -> list[str]:
    """`train` with small settings; `options` replace what is given, such as name='x'."""
    given = {"checkpoint": CHECKPOINT, "original": pair_files[0], "target": pair_files[1], "name": "blink", **options}
    given = {"lora-dir": lora_dir, **given}
    return ["train", *itertools.chain(*((f"--{key}", str(value)) for key, value in given.items())), *SMALL, *more]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def settings_of(path: Path) -> dict[str, Any]:
    return json.loads(read_lora(path)[1]["addift.config"])


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which the command fails."""
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, "one line"
    assert error.endswith(".\n")
    return error
