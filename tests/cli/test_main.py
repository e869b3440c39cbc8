from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lib_addift.cli.progress
import lib_addift.demo.run
import lib_addift.training.run
from lib_addift.cli.main import main
from lib_addift.config.presets import PRESETS
from lib_addift.demo.run import CHECKPOINT
from lib_addift.errors import HostError
from lib_addift.hosts import standalone
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Stage
from lib_addift.training.state import StepReport
from tests.support.fake_host import FakeHost

ROOT = Path(__file__).parents[2]
SMALL = ("--set", "max_train_steps=3", "--set", "sampling_steps=2", "--set", "rank=2", "--device", "cpu")
Files = tuple[Path, Path]


def command(pair_files: Files, lora_dir: Path, *more: str, **options: Any) -> list[str]:
    """`train` with small settings; `options` replace what is given, such as name='x'."""
    given = {"checkpoint": CHECKPOINT, "original": pair_files[0], "target": pair_files[1], "name": "blink", **options}
    given = {"lora-dir": lora_dir, **given}
    return ["train", *itertools.chain(*((f"--{key}", str(value)) for key, value in given.items())), *SMALL, *more]


@pytest.fixture
def lora_dir(tmp_path: Path) -> Path:
    return tmp_path / "Lora"


@pytest.fixture
def fake_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line without Stable Diffusion, for what does not depend on the model."""
    monkeypatch.setattr(
        standalone, "StandaloneHost", lambda _checkpoint, *, lora_dir, device, precision, clip_skip: FakeHost(lora_dir)
    )


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


# train


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


def test_settings_come_from_preset_file_and_command_line(
    fake_host: None, pair_files: Files, lora_dir: Path, tmp_path: Path
) -> None:
    toml = tmp_path / "settings.toml"
    toml.write_text(
        'preset = "style"\nrank = 5\nalpha = 2\nlayers = ["self_attention", "convolutions"]\nprompt = "größer"\n'
    )
    more = ("--config", str(toml), "--set", "alpha=3", "--set", "blocks=OUT, IN", "--set", "calibrate=off")
    assert main(command(pair_files, lora_dir, *more)) == 0
    settings = settings_of(lora_dir / "blink.safetensors")
    assert settings["mask"] == "off"
    assert (settings["rank"], settings["alpha"]) == (2, 3.0), "--set goes over the file"
    assert settings["layers"] == ["self_attention", "convolutions"]
    assert settings["blocks"] == ["IN", "OUT"]
    assert settings["prompt"] == "größer"
    assert settings["calibrate"] is False


def test_the_preset_of_the_command_line_goes_over_the_files(
    fake_host: None, pair_files: Files, lora_dir: Path, tmp_path: Path
) -> None:
    toml = tmp_path / "settings.toml"
    toml.write_text('preset = "style"\n')
    assert main(command(pair_files, lora_dir, "--config", str(toml), "--preset", "detail")) == 0
    assert settings_of(lora_dir / "blink.safetensors")["strength"] == PRESETS["detail"]["strength"] == 2.0


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


# Ctrl-C


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Presses Ctrl-C when the given step is done, `presses` times."""

    def prepare(step: int, presses: int = 1) -> None:
        def train(*args: Any, **options: Any) -> Iterator[StepReport]:
            for report in original(*args, **options):
                for _ in range(presses if report.step == step else 0):
                    signal.raise_signal(signal.SIGINT)
                yield report

        original = lib_addift.training.run.train_one
        monkeypatch.setattr(lib_addift.training.run, "train_one", train)

    return prepare


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """A person at a terminal who gives one answer; returns the questions that are asked."""

    def answer(text: str) -> list[str]:
        questions: list[str] = []
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or text)
        return questions

    return answer


@pytest.mark.parametrize(("answer", "kept"), [("y", True), ("YES ", True), ("n", False), ("", False), ("what?", False)])
def test_ctrl_c_at_a_terminal_asks_whether_to_keep(
    fake_host: None,
    pair_files: Files,
    lora_dir: Path,
    capsys: pytest.CaptureFixture[str],
    interrupt_after: Callable[..., None],
    terminal: Callable[[str], list[str]],
    answer: str,
    kept: bool,
) -> None:
    interrupt_after(2)
    questions = terminal(answer)
    handler = signal.getsignal(signal.SIGINT)
    assert main(command(pair_files, lora_dir, "--set", "max_train_steps=50")) == 130
    (question,) = questions
    assert "2 steps" in question
    assert "'blink-step2'" in question
    assert files(lora_dir) == ([f"blink-step2.{kind}" for kind in ("json", "png", "safetensors")] if kept else [])
    shown = capsys.readouterr()
    assert ("<lora:blink-step2:1>" in shown.out) == kept
    assert ("nothing was saved" in shown.err) != kept
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_without_a_terminal_keeps_what_was_learnt(
    fake_host: None, pair_files: Files, lora_dir: Path, interrupt_after: Callable[..., None]
) -> None:
    interrupt_after(1)
    assert main(command(pair_files, lora_dir)) == 130
    assert files(lora_dir) == ["blink-step1.json", "blink-step1.png", "blink-step1.safetensors"]


def test_a_second_ctrl_c_ends_at_once(
    fake_host: None,
    pair_files: Files,
    lora_dir: Path,
    capsys: pytest.CaptureFixture[str],
    interrupt_after: Callable[..., None],
) -> None:
    interrupt_after(2, presses=2)
    handler = signal.getsignal(signal.SIGINT)
    assert main(command(pair_files, lora_dir)) == 130
    assert files(lora_dir) == []
    assert "stopped" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_before_the_first_step_saves_nothing(
    pair_files: Files,
    lora_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: Callable[[str], list[str]],
) -> None:
    class Interrupted(FakeHost):
        def predict_noise(self, *args: torch.Tensor) -> torch.Tensor:
            signal.raise_signal(signal.SIGINT)
            return super().predict_noise(*args)

    monkeypatch.setattr(standalone, "StandaloneHost", lambda *_, lora_dir, **__: Interrupted(lora_dir))
    questions = terminal("y")
    assert main(command(pair_files, lora_dir, "--set", "reference_batch_size=1")) == 130
    assert (questions, files(lora_dir)) == ([], [])
    assert "nothing was saved" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to one process")
def test_ctrl_c_to_a_real_process_leaves_only_what_it_kept(pair_files: Files, lora_dir: Path) -> None:
    arguments = command(pair_files, lora_dir, "--set", "max_train_steps=200", "--set", "directions=forward")
    process = subprocess.Popen(
        [sys.executable, "-m", "lib_addift", *arguments], cwd=ROOT, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if " 1/200 loss" in line:
                process.send_signal(signal.SIGINT)
                break
        rest, error = process.communicate(timeout=300)
    assert process.returncode == 130, (seen, rest, error)
    assert "Traceback" not in error
    (lora,) = lora_dir.glob("*.safetensors")
    step = int(lora.stem.removeprefix("blink-step"))
    assert 1 <= step < 200
    assert read_lora(lora)[1]["ss_steps"] == str(step)
    assert files(lora_dir) == [f"blink-step{step}.{kind}" for kind in ("json", "png", "safetensors")]


# Progress


def test_progress_tells_the_speed_of_the_steps_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps take 2 s here; what comes before and between them takes 100 s and does not count."""
    now = 0.0

    def events() -> Iterator[Stage | StepReport]:
        nonlocal now
        for step in range(1, 21):
            if step in (1, 11):
                now += 100
                yield Stage("something else")
            now += 2
            yield StepReport(step, 20, 0.1, 1e-4, skipped=int(step > 15))

    monkeypatch.setattr(lib_addift.cli.progress.time, "monotonic", lambda: now)
    lib_addift.cli.progress._show(events())
    first, middle, last = (line for line in capsys.readouterr().out.splitlines() if "/20" in line)
    assert "1/20 loss 0.10000, 0.5 steps/s, 38 s left" in first
    assert "10/20 loss 0.10000, 0.5 steps/s, 20 s left" in middle
    assert "20/20 loss 0.10000, 0.5 steps/s, 0 s left, 1 steps skipped (not finite)" in last


def test_on_a_terminal_progress_rewrites_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(lib_addift.cli.progress.time, "monotonic", lambda: 0.0)
    lib_addift.cli.progress._show(StepReport(step, 9, 0.1, 1e-4, 0) for step in range(1, 10))
    shown = capsys.readouterr().out
    assert shown.count("\r") == 9
    assert shown.count("\n") == 1


# inspect and demo


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
