"""`python -m lib_addift batch`: a folder of sets on the tiny world, one broken on purpose, through the queue."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib_addift.cli.main import main
from lib_addift.demo import world
from lib_addift.demo.evaluate import evaluate, evaluation_faces
from lib_addift.demo.run import CHECKPOINT, TASKS
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork

ROOT = Path(__file__).parents[2]
QUICK = ("--set", "max_train_steps=4", "--set", "sampling_steps=2", "--set", "preview_every=0")


def make_set(folder: Path, attribute: str, settings: str = "") -> Path:
    """A set with the demo's pair, and its addift.toml."""
    task = TASKS[attribute]
    folder.mkdir(parents=True)
    for name, face in zip(("face", "face_after"), task.faces(1), strict=True):
        world.draw(face).save(folder / f"{name}.png")
    (folder / "addift.toml").write_text(settings, encoding="utf-8")
    return folder


def make_broken_set(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("a.png", "a_after.png"):
        (folder / name).write_bytes(b"no picture")


def command(sets: Path, lora_dir: Path, *more: str) -> list[str]:
    where = ["--checkpoint", str(CHECKPOINT), "--sets", str(sets), "--lora-dir", str(lora_dir), "--device", "cpu"]
    return ["batch", *where, *more]


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    make_set(folder / "closed", "eyes", 'preset = "action"')
    make_set(folder / "open", "mouth", 'preset = "detail"')
    make_broken_set(folder / "a broken one")
    return folder


def loras(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


@pytest.mark.slow
def test_a_dry_run_tells_everything_and_does_nothing(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(sets, tmp_path / "Lora", "--dry-run", *QUICK)) == 1, "one set is broken"
    text = capsys.readouterr().out
    assert re.search(r"^closed: 1 pair, about \d+ s$", text, re.MULTILINE)
    assert "face.png with face_after.png" in text
    assert "problem: the original" in text
    assert "is not a picture" in text
    assert re.search(r"^In all about \d+ s\.$", text, re.MULTILINE)
    assert loras(tmp_path / "Lora") == []


@pytest.mark.long
@pytest.mark.slow
def test_a_broken_set_stops_no_other(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(sets, tmp_path / "Lora", *QUICK)) == 1
    text = capsys.readouterr().out
    assert loras(tmp_path / "Lora") == ["closed.safetensors", "open.safetensors"]
    assert "2 of 3 sets are trained" in text
    presets = [
        json.loads(read_lora(tmp_path / "Lora" / name)[1]["addift.config"])["strength"]
        for name in loras(tmp_path / "Lora")
    ]
    assert presets == [1.0, 2.0], "each set has the preset of its addift.toml"
    assert main(command(sets, tmp_path / "Lora", *QUICK)) == 1, "the names are taken now"
    assert "already has" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.long
def test_a_set_can_be_searched_and_another_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_set(tmp_path / "sets" / "searched", "eyes", "search = true")
    make_set(tmp_path / "sets" / "plain", "mouth")
    make_set(tmp_path / "sets" / "refused", "mouth", 'search = true\nmethod = "slider"')
    assert main(command(tmp_path / "sets", tmp_path / "Lora", *QUICK)) == 1
    text = capsys.readouterr().out
    assert "problem: search = true compares recipes of addift, and method = slider" in text
    assert "2 of 3 sets are trained" in text
    reports = {
        name: json.loads(read_lora(tmp_path / "Lora" / name)[1]["addift.report"]) for name in loras(tmp_path / "Lora")
    }
    assert {name: "search" in report for name, report in reports.items()} == {
        "plain.safetensors": False, "searched.safetensors": True,
    }  # fmt: skip
    assert len(reports["searched.safetensors"]["search"]["recipes"]) == 5


def test_the_settings_of_the_command_line_are_checked_first(sets: Path, tmp_path: Path) -> None:
    assert main(command(sets, tmp_path / "Lora", "--set", "rank=0")) == 1
    assert not (tmp_path / "Lora").exists() or loras(tmp_path / "Lora") == []


@pytest.mark.long
def test_what_was_interrupted_goes_on_in_the_next_call(sets: Path, tmp_path: Path) -> None:
    """Killed in the middle; the next call with the same queue does the rest, and only that."""
    steps = ("--set", "max_train_steps=24", "--set", "preview_every=4", "--set", "sampling_steps=2")
    settings = (*steps, "--together", "1")
    arguments = command(sets, tmp_path / "Lora", "--jobs-db", str(tmp_path / "jobs"), *settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "lib_addift", *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "training, 50 %" in line:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    assert loras(tmp_path / "Lora") == []
    again = subprocess.run(
        [sys.executable, "-m", "lib_addift", *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 1, again.stderr
    assert loras(tmp_path / "Lora") == ["closed.safetensors", "open.safetensors"]
    assert "closed: training, 0 %" not in again.stdout, "it went on where it was"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send Ctrl-C to one process alone")
def test_ctrl_c_ends_it_cleanly(sets: Path, tmp_path: Path) -> None:
    arguments = command(sets, tmp_path / "Lora", "--together", "1", "--set", "max_train_steps=400")
    process = subprocess.Popen(
        [sys.executable, "-m", "lib_addift", *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        try:
            for line in process.stdout:
                if "training" in line:
                    break
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "stopped" in errors
    assert "Traceback" not in errors
    assert loras(tmp_path / "Lora") == []


@pytest.mark.long
@pytest.mark.slow
def test_sets_that_learn_at_once_become_what_each_becomes_alone(tmp_path: Path) -> None:
    """All are proven, and one keeps the demo's promise on new faces, from a batch in one pass beside a broken set."""
    attributes = "eyes", "mouth", "style"
    for attribute in attributes:
        make_set(tmp_path / "sets" / attribute, attribute)
    make_broken_set(tmp_path / "sets" / "broken")
    lora_dir = tmp_path / "Lora"
    assert main(command(tmp_path / "sets", lora_dir, "--together", "3", "--set", "preview_every=0")) == 1
    assert loras(lora_dir) == [f"{attribute}.safetensors" for attribute in attributes]
    found = {attribute: read_lora(lora_dir / f"{attribute}.safetensors") for attribute in attributes}
    recoveries = {name: json.loads(metadata["addift.report"])["recovery"] for name, (_, metadata) in found.items()}
    assert min(recoveries.values()) >= 0.35, recoveries  # from 95 % noise
    host, task = StandaloneHost(CHECKPOINT, lora_dir=lora_dir, device="cpu"), TASKS["mouth"]
    network = LoraNetwork.from_tensors(found["mouth"][0], host.unet, host.lora_name)
    faces = evaluation_faces(64, 20_000, excluded=task.faces(1))
    scores = evaluate(host, network, faces, attribute="mouth", value=task.value, seed=20_000)
    assert scores.target_rate >= 0.9
    assert scores.reverse_rate <= 0.1
    assert scores.off_target_change <= 0.1
