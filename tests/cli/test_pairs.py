"""The command `pairs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.cli.main import main
from lib_addift.data.pictures import load_picture
from lib_addift.demo.run import CHECKPOINT
from lib_addift.hosts import standalone
from lib_addift.sets.find import find_set
from tests.support.command_line import Files, files, refused
from tests.support.prompted_host import PromptedHost

QUICK = ("--checkpoint", str(CHECKPOINT), "--steps", "3", "--guidance", "2")
WORDS = ("--original", "x, a", "--target", "x, a b b b b b")


@pytest.fixture(autouse=True)
def prompted_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        standalone, "StandaloneHost", lambda _checkpoint, *, lora_dir, **_options: PromptedHost(lora_dir)
    )


def test_from_words_writes_a_set_and_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "closed eyes"
    assert main(["pairs", "from-words", *WORDS, *QUICK, "--count", "3", "--size", "128x64", "--out", str(out)]) == 0
    found = find_set(out)
    assert [source.original_prompt for source in found.pairs] == ["x"] * 3
    assert load_picture(out / "pair_01.png", "original").size == (128, 64)
    text = capsys.readouterr().out
    assert "drawing pairs: 3/3" in text
    assert f'batch --checkpoint {CHECKPOINT} --sets "{out}"' in text
    assert str(tmp_path / "closed eyes_pairs.png") in text


def test_vary_begins_with_the_pair_itself(pair_files: Files, tmp_path: Path) -> None:
    out = tmp_path / "set"
    names = [str(file) for file in pair_files]
    assert main(["pairs", "vary", *names, *QUICK, "--count", "2", "--caption", "a face", "--out", str(out)]) == 0
    first = find_set(out).pairs[0]
    assert load_picture(first.original, "original").width % 64 == 0
    assert first.original_prompt == "a face"


def test_target_keeps_the_picture(pair_files: Files, tmp_path: Path) -> None:
    out = tmp_path / "set"
    words = ["--prompt", "a b b b b b", "--original", "a"]
    assert main(["pairs", "target", str(pair_files[0]), *words, *QUICK, "--out", str(out)]) == 0
    assert files(out) == ["addift.toml", "pair_01.png", "pair_01_target.png"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--size", "big"), "--size big"),
        (("--size", "100"), "multiple of 64"),
        (("--count", "0"), "count = 0"),
        (("--target", "x, a"), "no difference"),
        (("--original", "{a"), "without its }"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str], words: str
) -> None:
    out = tmp_path / "set"
    arguments = ["pairs", "from-words", *WORDS, *QUICK, "--size", "64", "--out", str(out), *more]
    assert words in refused(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standalone, "StandaloneHost", None)
    (tmp_path / "mine.png").touch()
    assert "not empty" in refused(["pairs", "from-words", *WORDS, *QUICK, "--out", str(tmp_path)], capsys)
