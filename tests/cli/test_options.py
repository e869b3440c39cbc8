"""Options that several commands have: settings from the command line, files and presets, and the host."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from lib_addift.cli.main import main
from lib_addift.cli.options import add_settings, settings
from lib_addift.config.presets import PRESETS
from lib_addift.demo.run import CHECKPOINT
from lib_addift.errors import HostError
from lib_addift.hosts import standalone
from tests.support.command_line import Files, command, files, refused, settings_of
from tests.support.wrong_values import json_text, not_handled

ROOT = Path(__file__).parents[2]


def test_settings_come_from_preset_file_and_command_line(
    fake_host: None, pair_files: Files, lora_dir: Path, tmp_path: Path
) -> None:
    toml = tmp_path / "settings.toml"
    toml.write_text(
        'preset = "style"\nrank = 5\nalpha = 2\nlayers = ["self_attention", "convolutions"]\nprompt = "größer"\n'
    )
    more = ("--config", str(toml), "--set", "alpha=3", "--set", "blocks=OUT, IN", "--set", "calibrate=off")
    assert main(command(pair_files, lora_dir, *more)) == 0
    learnt = settings_of(lora_dir / "blink.safetensors")
    assert learnt["mask"] == "off"
    assert (learnt["rank"], learnt["alpha"]) == (2, 3.0), "--set goes over the file"
    assert learnt["layers"] == ["self_attention", "convolutions"]
    assert learnt["blocks"] == ["IN", "OUT"]
    assert learnt["prompt"] == "größer"
    assert learnt["calibrate"] is False


def test_the_preset_of_the_command_line_goes_over_the_files(
    fake_host: None, pair_files: Files, lora_dir: Path, tmp_path: Path
) -> None:
    toml = tmp_path / "settings.toml"
    toml.write_text('preset = "style"\n')
    assert main(command(pair_files, lora_dir, "--config", str(toml), "--preset", "detail")) == 0
    assert settings_of(lora_dir / "blink.safetensors")["strength"] == PRESETS["detail"]["strength"] == 2.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], False),
        (["--search"], True),
        (["--set", "rank=3", "--search"], True),
        (["--search", "--set", "search=no"], False),
    ],
)
def test_a_search_is_one_word(given: list[str], expected: bool) -> None:
    for _ in range(2):  # nothing of one call is left in the next
        parser = argparse.ArgumentParser()
        add_settings(parser)
        assert settings(parser.parse_args(given)).search is expected


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("rang=8", "'rang' is no setting"),
        ("rank", "has no value"),
        ("rank=", "rank"),
        ("rank=four", "is not a whole number"),
        ("rank=4.5", "whole number"),
        ("rank=0", "out of bounds"),
        ("learning_rate=nan", "finite number"),
        ("learning_rate=inf", "finite number"),
        ("learning_rate=-1", "out of bounds"),
        ("max_train_steps=0", "out of bounds"),
        ("calibrate=maybe", "neither true nor false"),
        ("loss=l3", "no choice"),
        ("layers=everything", "use some of"),
        ("layers=", "choose at least one"),
        ("mask=file", "needs a mask_file"),
        ("min_timestep=998", "bands"),
        ("optimizer=Adamm", "was not found"),
        ("optimizer_args=betas", "every argument needs a name"),
        ("optimizer_args=speed=1", "does not suit AdamW"),
    ],
)
def test_a_bad_setting_is_refused(
    fake_host: None, pair_files: Files, lora_dir: Path, capsys: pytest.CaptureFixture[str], assignment: str, words: str
) -> None:
    assert words in refused(command(pair_files, lora_dir, "--set", assignment), capsys)
    assert files(lora_dir) == []


def test_every_setting_of_every_wrong_type_on_the_command_line() -> None:
    def read(field: str, value: object) -> None:
        text = value if isinstance(value, str) else json_text(value)
        settings(argparse.Namespace(config=None, preset=None, search=False, set=[f"{field}={text}"]))

    assert list(not_handled(read)) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"rang = 8", "'rang' is no setting"),
        (b"seed = 'four'", "whole number"),
        (b"seed = nan", "whole number"),
        (b"calibrate = 1", "true or false"),
        (b"preset = 'fast'", "preset 'fast' does not exist"),
        (b"[train]\nrank = 8", "'train' is no setting"),
        (b"rank is 8", "is not TOML"),
        (b"\xff\xfe\x00", "is not TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_settings_file_is_refused(
    fake_host: None,
    pair_files: Files,
    lora_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    words: str,
) -> None:
    toml = tmp_path / "settings.toml"
    if content is not None:
        toml.write_bytes(content)
    arguments = command(pair_files, lora_dir, "--config", str(toml))
    assert words in refused(arguments, capsys)
    assert files(lora_dir) == []


def test_a_folder_in_place_of_the_settings_file_is_refused(
    pair_files: Files, lora_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be read" in refused(command(pair_files, lora_dir, "--config", str(tmp_path)), capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checkpoint": "nowhere.safetensors"}, "is no file"),
        ({"checkpoint": ROOT}, "is no file"),
        ({"checkpoint": ROOT / "pyproject.toml"}, "no whole .safetensors file"),
        ({"device": "banana"}, "device 'banana' cannot be used"),
    ],
)
def test_a_host_that_cannot_be_used_is_refused(
    pair_files: Files, lora_dir: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object], words: str
) -> None:
    device = ["--device", str(options.pop("device"))] if "device" in options else []
    assert words in refused([*command(pair_files, lora_dir, **options), *device], capsys)
    assert files(lora_dir) == []


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[], ["--clip-skip", "2"]])
@pytest.mark.parametrize("name", ["train", "batch", "demo", "ui"])
def test_clip_skip_reaches_the_host(
    pair_files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    asked: list[str],
) -> None:
    def host(*_arguments: object, clip_skip: int, **_options: object) -> None:
        raise HostError(f"clip skip is {clip_skip}.")

    monkeypatch.setattr(standalone, "StandaloneHost", host)
    folders = ["--checkpoint", str(CHECKPOINT), "--lora-dir", str(tmp_path)]
    arguments = {"train": command(pair_files, tmp_path), "batch": ["batch", "--sets", str(tmp_path), *folders]}
    message = refused([*arguments.get(name, [name]), *asked], capsys)
    assert message == f"error: clip skip is {2 if asked else 1}.\n"
