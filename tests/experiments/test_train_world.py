"""The training of a world's checkpoint, a few steps of each stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_addift.demo.run import CHECKPOINT
from lib_addift.experiments import train_world
from lib_addift.experiments.worlds.data import WORLDS
from lib_addift.experiments.worlds.judge import read_prompted
from lib_addift.hosts.checkpoint import read_checkpoint


def train(out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    steps = [
        "--vae-steps", "1", "--text-steps", "1",
        "--unet-steps", "3", "--look-every", "3", "--unet-batch", "2",
    ]  # fmt: skip
    # The new faces' checkpoint starts from the bundled one, whose pictures the detectors can read.
    arguments = ["--world", "faces", "--init", str(CHECKPOINT), "--out", str(out), *steps, *options]
    monkeypatch.setattr("sys.argv", ["train_world", *arguments])
    monkeypatch.setattr(train_world, "_PICTURES", 4)
    monkeypatch.setattr(train_world, "_DRAWN", 8)
    train_world.main()


@pytest.mark.long
@pytest.mark.slow
def test_it_trains_reports_and_goes_on_from_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, state = tmp_path / "new.safetensors", tmp_path / "state.pt"
    train(out, monkeypatch, "--state", str(state))
    assert "look 3: eyes" in capsys.readouterr().out
    assert out.with_suffix(".3.png").is_file()
    first = read_checkpoint(out)
    train(out, monkeypatch, "--state", str(state), "--unet-steps", "4", "--look-every", "1")
    printed = capsys.readouterr().out
    assert "look 4" in printed
    assert "look 3" not in printed
    resumed = read_checkpoint(out)
    assert all(torch.equal(first.vae[name], resumed.vae[name]) for name in first.vae)
    assert not torch.equal(first.unet["conv_in.weight"], resumed.unet["conv_in.weight"])


@pytest.mark.long
@pytest.mark.slow
def test_a_trained_checkpoint_is_judged_by_its_worlds_detectors() -> None:
    shares, pictures = read_prompted(CHECKPOINT, WORLDS["faces"], count=12, seed=3, steps=8)
    assert pictures.shape == (12, 64, 64, 3)
    assert set(shares) == set(WORLDS["faces"].attributes)
    assert min(shares.values()) >= 10 / 12
