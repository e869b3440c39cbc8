"""The end of a run: what is refused, calibration, and the files that are written."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lib_addift.training.finish
from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import LoraFileError, TrainingError
from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.evaluation.weight import Choice
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Stage
from tests.support.fake_host import FakeHost
from tests.support.models import fingerprint
from tests.support.runs import SMALL, files, finish, label, start

CELL = 128  # px a picture has in a labelled row; those of 64 px are enlarged


# What is saved


def test_a_run_saves_the_lora_its_card_and_its_strip(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    run = finish(host, prompt="a face, smiling")
    assert files(tmp_path) == ["blink.json", "blink.png", "blink.safetensors"]
    (result,) = run.results
    assert result.path == tmp_path / "blink.safetensors"
    assert (result.steps, result.train_seconds > 0) == (3, True)
    assert (result.strip.width, result.pictures.width) == (5 * CELL, 6 * CELL)
    assert host.refreshed == [result.path]
    with Image.open(tmp_path / "blink.png") as strip:
        assert strip.width == 5 * CELL, "one picture for each of five weights"
    assert json.loads((tmp_path / "blink.json").read_text())["sd version"] == "SD1"


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    run = finish(FakeHost(tmp_path), prompt="a face", learning_rate=2e-4)
    tensors, metadata = read_lora(run.results[0].path)
    assert TrainConfig(**json.loads(metadata["addift.config"])) == run.config, "a file can be retrained from itself"
    report = json.loads(metadata["addift.report"])
    assert report["steps"] == 3
    assert report["recovery"] == pytest.approx(run.results[0].round_trip.recovery, abs=1e-4)
    assert report["verdict"] == run.results[0].verdict
    assert report["pair"]["width"] == 64
    assert 0 < report["pair"]["changed_share"] < 0.5
    assert metadata["ss_steps"] == "3"
    assert metadata["ss_network_dim"] == "2"
    assert metadata["ss_new_sd_model_hash"] == FakeHost.model_hash
    assert {tensor.dtype for key, tensor in tensors.items() if not key.endswith("alpha")} == {torch.float16}
    assert any(tensor.any() for key, tensor in tensors.items() if "lora_up" in key)


@pytest.mark.parametrize("old", [b"", b"the LoRA of before"])
def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes) -> None:
    if old:
        (tmp_path / "blink.safetensors").write_bytes(old)
    before = files(tmp_path)

    def write(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("lib_addift.files._write", write)
    host = FakeHost(tmp_path)
    state = fingerprint(host.unet)
    run = start(host, overwrite=True)
    with pytest.raises(LoraFileError, match="full"):
        list(run.events())
    assert files(tmp_path) == before
    assert not old or (tmp_path / "blink.safetensors").read_bytes() == old
    assert run.results == []
    assert host.refreshed == []
    assert fingerprint(host.unet) == state


# Dead LoRAs


class ChangedHost(FakeHost):
    """Passes each prediction through `change`."""

    def __init__(self, lora_dir: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(lora_dir)
        self._change = change

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        return self._change(super().predict_noise(latents, timesteps, cond))


@pytest.mark.parametrize(
    ("change", "steps", "reason"),
    [
        (lambda result: result * 0.0 + 0.5, 3, "training changed nothing"),
        (lambda result: result * float("nan"), 3, "training changed nothing"),
        (lambda result: result * float("nan"), 30, "gradients of the last 10 steps were not finite"),
        (lambda result: result * float("inf"), 30, "gradients of the last 10 steps were not finite"),
    ],
)
def test_a_dead_run_fails_with_the_reason_and_saves_nothing(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], steps: int, reason: str
) -> None:
    host = ChangedHost(tmp_path, change)
    with pytest.raises(TrainingError, match=reason):
        finish(host, max_train_steps=steps)
    assert files(tmp_path) == []
    assert host.refreshed == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create, networks = LoraNetwork.create, []
    monkeypatch.setattr(
        LoraNetwork, "create", lambda *a, **settings: networks.append(create(*a, **settings)) or networks[0]
    )
    run = start(FakeHost(tmp_path))
    with pytest.raises(TrainingError, match="not finite"):
        for event in run.events():
            if label(event) == "step 3":
                next(iter(networks[0].layers.values())).lora_up.data.fill_(float("nan"))
    assert files(tmp_path) == []


# Calibration


@pytest.mark.parametrize("weight", [0.5, -0.5, 3.0])
def test_calibration_folds_the_chosen_weight_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    trip = RoundTrip(recovery=0.8, weight=weight, curve=((weight, 0.8),))
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: trip)
    new = NewPictures(weight, (1.0,), (0.0,), (1.0,), (0.0,))
    choose(monkeypatch, lambda config: Choice(weight if config.calibrate else 1.0, config.calibrate, new))
    as_trained, calibrated = (
        finish(FakeHost(tmp_path / f"{calibrate}"), calibrate=calibrate, save_precision="fp32").results[0]
        for calibrate in (False, True)
    )
    assert (as_trained.weight, calibrated.weight) == (1.0, weight)
    plain, scaled = read_lora(as_trained.path)[0], read_lora(calibrated.path)[0]
    for name in {key.split(".")[0] for key in plain}:
        assert plain[f"{name}.alpha"].item() == 4.0
        assert scaled[f"{name}.alpha"].item() == 4.0 * abs(weight)
        assert torch.equal(scaled[f"{name}.lora_down.weight"], plain[f"{name}.lora_down.weight"])
        sign = 1 if weight > 0 else -1
        assert torch.equal(scaled[f"{name}.lora_up.weight"], sign * plain[f"{name}.lora_up.weight"])
    report = json.loads(read_lora(calibrated.path)[1]["addift.report"])
    assert (report["calibrated"], report["best_weight"]) == (True, weight)


def choose(monkeypatch: pytest.MonkeyPatch, choice: Callable[[TrainConfig], Choice]) -> None:
    """Have the weight chosen without drawing."""
    latents = torch.zeros(3, 1, 4, 8, 8)
    monkeypatch.setattr(lib_addift.training.finish, "choose", lambda _painter, _trip, config: (choice(config), latents))


def test_the_round_trip_alone_turns_nothing_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: RoundTrip(0.8, -0.5, ((-0.5, 0.8),)))
    result = finish(FakeHost(tmp_path), new_pictures=0).results[0]
    assert (result.weight, result.is_calibrated) == (1.0, False)
    assert "not turned round" in result.verdict


@pytest.mark.parametrize("new_pictures", [0, 4])
def test_a_shift_is_used_at_three_quarters_of_what_it_was_trained_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_pictures: int
) -> None:
    monkeypatch.setattr(NewPictures, "reach", property(lambda self: self.count))  # no second look
    shift = {**SMALL, "algorithm": "shift", "rank": 1, "alpha": 1.0, "train_multiplier": 1.0}
    result = finish(FakeHost(tmp_path), **shift, new_pictures=new_pictures).results[0]
    assert result.weight == pytest.approx(0.75)
    assert [weight for weight, _ in result.round_trip.curve] == [result.round_trip.weight] == [0.75]


# New pictures


def test_what_was_seen_on_new_pictures_is_in_the_result_and_in_the_file(tmp_path: Path) -> None:
    result = finish(FakeHost(tmp_path), max_train_steps=20).results[0]
    new = result.new_pictures
    assert (new.count, new.weight, new.seconds > 0) == (5, result.weight, True)
    assert "new pictures it makes your change" in result.verdict
    assert result.grid is not None
    assert result.grid.width == 6 * CELL
    report = json.loads(read_lora(result.path)[1]["addift.report"])
    assert report["new_pictures"] == {
        "count": 5, "reach": new.reach, "spread": new.spread, "sizes": list(new.sizes), "spreads": list(new.spreads),
    }  # fmt: skip
    assert report["verdict"] == result.verdict


def test_new_pictures_can_be_switched_off(tmp_path: Path) -> None:
    run = start(FakeHost(tmp_path), new_pictures=0)
    assert "evaluating it: new pictures" not in [label(event) for event in run.events()]
    result = run.results[0]
    assert (result.new_pictures.count, result.grid, result.verdict) == (0, None, result.round_trip.verdict)
    assert "new_pictures" not in json.loads(read_lora(result.path)[1]["addift.report"])


@pytest.mark.parametrize(
    "settings",
    [
        {"max_train_steps": 60},
        {"max_train_steps": 60, "directions": "alternate"},
        {"batch_size": 4, "calibrate": False},
    ],
)
def test_new_pictures_take_at_most_half_of_the_passes_of_training(tmp_path: Path, settings: dict[str, Any]) -> None:
    samples: dict[str, int] = {}

    class CountingHost(FakeHost):
        stage = "training"

        def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
            count = len(latents) * (2 if torch.is_grad_enabled() else 1)  # backward costs about as much
            samples[self.stage] = samples.get(self.stage, 0) + count
            return super().predict_noise(latents, timesteps, cond)

    host = CountingHost(tmp_path)
    for event in start(host, **{"max_train_steps": 30, "sampling_steps": 12, **settings}).events():
        if isinstance(event, Stage):
            host.stage = event.text if event.text.startswith(("eval", "draw")) else "training"
    assert 0 < samples["evaluating it: new pictures"] <= samples["training"] / 2


def test_what_was_not_learnt_is_not_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: RoundTrip(0.05, 3.0, ()))
    result = finish(FakeHost(tmp_path)).results[0]
    tensors, metadata = read_lora(result.path)
    assert result.weight == 1.0
    assert {tensor.item() for key, tensor in tensors.items() if key.endswith("alpha")} == {4.0}
    assert json.loads(metadata["addift.report"])["calibrated"] is False


def test_strength_multiplies_the_weight(tmp_path: Path) -> None:
    plain, strong = (
        finish(FakeHost(tmp_path / f"{strength}"), calibrate=False, strength=strength).results[0]
        for strength in (1.0, 2.5)
    )
    assert (plain.weight, strong.weight) == (1.0, 2.5)
