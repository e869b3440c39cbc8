"""Progress of a training in the terminal, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lib_addift.cli.progress
import lib_addift.training.run
from lib_addift.cli.main import main
from lib_addift.hosts import standalone
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Stage
from lib_addift.training.state import StepReport
from tests.support.command_line import Files, command, files
from tests.support.fake_host import FakeHost

ROOT = Path(__file__).parents[2]


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


@pytest.mark.long
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
