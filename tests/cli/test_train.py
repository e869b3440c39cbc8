"""The command `train`: what it makes, and what it refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from lib_addift.cli.main import main
from lib_addift.hosts import standalone
from lib_addift.lora.file import read_lora
from tests.support.command_line import Files, command, files, refused
from tests.support.fake_host import FakeHost

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_train_makes_a_lora_and_says_how_to_use_it(
    pair_files: Files, lora_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(pair_files, lora_dir)) == 0
    assert files(lora_dir) == ["blink.json", "blink.png", "blink.safetensors"]
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "<lora:blink:1>" in shown.out
    assert "3/3 loss" in shown.out
    assert "steps/s" in shown.out
    assert "The LoRA" in shown.out, "the verdict"
    assert "The pictures differ in" in shown.out, "the pair doctor"


def test_train_learns_from_pictures_of_any_kind(
    fake_host: None, pair_files: Files, lora_dir: Path, tmp_path: Path
) -> None:
    for path in pair_files:
        with Image.open(path) as picture:
            picture.convert("CMYK").resize((100, 130)).save(path.with_suffix(".jpg"))
    assert main(command(tuple(path.with_suffix(".jpg") for path in pair_files), lora_dir)) == 0
    assert len(files(lora_dir)) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"original": "nowhere.png"}, "does not exist"),
        ({"target": ROOT / "pyproject.toml"}, "not a picture"),
        ({"target": ROOT}, "is a folder"),
        ({"name": "a/b"}, "file names or prompts cannot hold"),
        ({"name": ".."}, "begins or ends with a dot"),
        ({"name": "nul"}, "reserved by Windows"),
        ({"name": "n" * 300}, "300 characters"),
        ({"lora-dir": ROOT / "pyproject.toml"}, "choose a folder"),
        ({"lora-dir": ROOT / "pyproject.toml" / "below"}, "choose a folder"),
    ],
)
def test_what_cannot_be_used_is_refused(
    fake_host: None,
    pair_files: Files,
    lora_dir: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    words: str,
) -> None:
    assert words in refused(command(pair_files, lora_dir, **options), capsys)
    assert files(lora_dir) == []


def test_identical_pictures_are_refused(
    fake_host: None, pair_files: Files, lora_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "identical" in refused(command((pair_files[0], pair_files[0]), lora_dir), capsys)
    assert files(lora_dir) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_refused(
    fake_host: None, pair_files: Files, lora_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora_dir.mkdir()
    lora_dir.chmod(0o555)
    assert "cannot be written" in refused(command(pair_files, lora_dir), capsys)


def test_a_refused_write_is_said_before_any_work(
    fake_host: None,
    pair_files: Files,
    lora_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(FakeHost, "predict_noise", None)
    assert "cannot be written (Permission denied)" in refused(command(pair_files, lora_dir), capsys)


def test_an_existing_name_is_kept_unless_overwriting_is_asked_for(
    fake_host: None, pair_files: Files, lora_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora_dir.mkdir()
    (lora_dir / "blink.safetensors").write_bytes(b"precious")
    assert "already has" in refused(command(pair_files, lora_dir), capsys)
    assert (lora_dir / "blink.safetensors").read_bytes() == b"precious"
    assert main(command(pair_files, lora_dir, "--overwrite")) == 0
    assert read_lora(lora_dir / "blink.safetensors")


def test_a_full_disk_leaves_nothing(
    fake_host: None,
    pair_files: Files,
    lora_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(path: Path, data: bytes) -> None:
        path.write_bytes(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lib_addift.files._write", write)
    assert "is full" in refused(command(pair_files, lora_dir), capsys)
    assert files(lora_dir) == []


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_full_memory_is_said_in_a_sentence(
    pair_files: Files,
    lora_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def raise_error(*_: object) -> None:
        raise error

    monkeypatch.setattr(FakeHost, "predict_noise", raise_error)
    monkeypatch.setattr(standalone, "StandaloneHost", lambda *_, lora_dir, **__: FakeHost(lora_dir))
    assert "memory is full" in refused(command(pair_files, lora_dir), capsys)
    assert files(lora_dir) == []
