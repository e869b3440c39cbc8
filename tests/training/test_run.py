from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lib_addift.training.finish
import lib_addift.training.run
from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo import world
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.latents import LatentPair, Side
from lib_addift.diffusion.schedule import sd15_alphas_cumprod
from lib_addift.errors import AddiftError, ConfigError, HostError, LoraFileError, PictureError, TrainingError
from lib_addift.evaluation.round_trip import _NEARLY, WEIGHTS_TRIED, RoundTrip, _Probe, round_trip, round_trip_pictures
from lib_addift.lora.file import read_lora
from lib_addift.lora.names import kohya
from lib_addift.lora.network import LoraLayer, LoraNetwork
from lib_addift.training.events import Event, Request, ResumeState, Snapshot
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.fake_host import FakeHost
from tests.support.models import fingerprint

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
CELL = 128  # px a picture has in a labelled row; those of 64 px are enlarged
SMALL = {"max_train_steps": 3, "sampling_steps": 2, "rank": 2, "layers": LAYER_KINDS, "blocks": BLOCKS}


def start(
    host: FakeHost, name: str = "blink", *, overwrite: bool = False, keep_snapshots: bool = False, **settings: Any
) -> TrainingRun:
    config = TrainConfig.create(**{**SMALL, **settings})
    return TrainingRun(
        host, Request.of(ORIGINAL, TARGET, name, config, overwrite=overwrite), keep_snapshots=keep_snapshots
    )


def finish(host: FakeHost, name: str = "blink", **options: Any) -> TrainingRun:
    run = start(host, name, **options)
    list(run.events())
    return run


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def label(event: Event) -> str:
    if isinstance(event, (Snapshot, ResumeState)):
        return f"{'kept' if isinstance(event, Snapshot) else 'checkpoint'} {event.step}"
    return f"step {event.step}" if isinstance(event, StepReport) else event.text


# The whole job


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


def test_events_come_in_the_order_of_the_work(tmp_path: Path) -> None:
    events = list(start(FakeHost(tmp_path)).events())
    assert [label(event) for event in events] == [
        "encoding the pictures",
        "step 1", "step 2", "step 3",
        "proving it: the round trip", "drawing the preview", "saving",
    ]  # fmt: skip
    assert all(event.total == 3 for event in events if isinstance(event, StepReport))


def test_the_same_seed_gives_the_same_file_and_another_seed_another(tmp_path: Path) -> None:
    contents = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = finish(FakeHost(tmp_path / folder), seed=seed)
        contents.append([path.read_bytes() for path in sorted((tmp_path / folder).iterdir())])
        assert len(contents[-1]) == 3
        assert run.results[0].path.stem == "blink"
    assert contents[0] == contents[1]
    assert contents[0][2] != contents[2][2]


def test_a_host_can_be_used_again_and_gives_the_same_lora(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    first = finish(host).results[0].path.read_bytes()
    assert finish(host, overwrite=True).results[0].path.read_bytes() == first


def test_save_every_keeps_loras_on_the_way(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    run = finish(host, max_train_steps=5, save_every=2)
    assert [result.path.stem for result in run.results] == ["blink-step2", "blink-step4", "blink"]
    assert [read_lora(result.path)[1]["ss_steps"] for result in run.results] == ["2", "4", "5"]
    assert len(files(tmp_path)) == 9
    assert host.refreshed == [result.path for result in run.results]


def test_saving_on_the_way_does_not_change_what_is_learnt(tmp_path: Path) -> None:
    plain, with_stops = (
        read_lora(finish(FakeHost(tmp_path / name), name, max_train_steps=4, save_every=every).results[-1].path)[0]
        for name, every in (("plain", 0), ("stops", 1))
    )
    assert all(torch.equal(plain[key], with_stops[key]) for key in plain)


def test_half_precision_hosts_train_too(tmp_path: Path) -> None:
    run = finish(FakeHost(tmp_path, dtype=torch.bfloat16), save_precision="fp32")
    tensors, _ = read_lora(run.results[0].path)
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


# Stopping


def test_a_stopped_run_saves_nothing_until_it_is_kept(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    before = fingerprint(host.unet)
    run = start(host, max_train_steps=50)
    for event in run.events():
        if label(event) == "step 2":
            run.stop()
    assert run.steps_done == 2
    assert files(tmp_path) == []
    assert run.results == []
    assert fingerprint(host.unet) == before
    assert [event.text for event in run.keep()] == ["proving it: the round trip", "drawing the preview", "saving"]
    assert files(tmp_path) == ["blink-step2.json", "blink-step2.png", "blink-step2.safetensors"]
    assert read_lora(run.results[0].path)[1]["ss_steps"] == "2"
    assert fingerprint(host.unet) == before


def test_a_kept_lora_is_the_one_of_that_step(tmp_path: Path) -> None:
    run = start(FakeHost(tmp_path), max_train_steps=4, save_every=2)
    for event in run.events():
        if label(event) == "step 2":
            run.stop()
    list(run.keep())
    kept, _ = read_lora(run.results[-1].path)
    whole = finish(FakeHost(tmp_path / "whole"), max_train_steps=4, save_every=2)
    expected, _ = read_lora(whole.results[0].path)
    assert all(torch.equal(kept[key], expected[key]) for key in expected)


def test_stopping_before_the_first_step_leaves_nothing_to_keep(tmp_path: Path) -> None:
    run = start(FakeHost(tmp_path))
    seen = []
    for event in run.events():
        seen.append(label(event))
        run.stop()
    assert seen == ["encoding the pictures"]
    with pytest.raises(TrainingError, match="nothing to keep"):
        list(run.keep())
    assert files(tmp_path) == []


@pytest.mark.parametrize("where", ["encoding the pictures", "step 1", "drawing the preview", "saving"])
def test_closing_the_events_restores_the_model(tmp_path: Path, where: str) -> None:
    host = FakeHost(tmp_path)
    before = fingerprint(host.unet)
    events = start(host).events()
    assert any(label(event) == where for event in events)
    events.close()  # type: ignore[attr-defined]
    assert fingerprint(host.unet) == before
    assert files(tmp_path) == []


# Watching


def test_a_watched_run_keeps_steps_on_the_way_and_the_last_one(tmp_path: Path) -> None:
    run = start(FakeHost(tmp_path), keep_snapshots=True, max_train_steps=5, preview_every=2, reference_batch_size=10)
    events = list(run.events())
    assert [label(event) for event in events] == [
        "encoding the pictures",
        "step 1", "step 2", "kept 2", "checkpoint 2", "step 3", "step 4", "kept 4", "checkpoint 4",
        "step 5", "checkpoint 5",
        "proving it: the round trip", "drawing the preview", "kept 5", "saving",
    ]  # fmt: skip
    assert list(run.snapshots.values()) == [event for event in events if isinstance(event, Snapshot)]
    assert list(run.snapshots) == [2, 4, 5]
    assert all(snapshot.strip.width == 5 * CELL for snapshot in run.snapshots.values())
    assert run.snapshots[5].strip is run.results[0].strip, "the finished LoRA is drawn once"
    assert files(tmp_path) == ["blink.json", "blink.png", "blink.safetensors"], "nothing is saved by itself"


@pytest.mark.parametrize(("keep_snapshots", "every"), [(True, 0), (False, 1)])
def test_a_run_that_is_not_to_be_watched_keeps_nothing(tmp_path: Path, keep_snapshots: bool, every: int) -> None:
    run = start(FakeHost(tmp_path), keep_snapshots=keep_snapshots, preview_every=every)
    assert not [event for event in run.events() if isinstance(event, Snapshot)]
    assert run.snapshots == {}


@pytest.mark.parametrize(
    ("steps", "every", "kept"),
    [
        (1, 1, [1]),
        (4, 4, [4]),
        (3, 100_000, [3]),
        (30, 1, list(range(1, 31))),
        (31, 1, [*range(2, 31, 2), 31]),
        (61, 7, [*range(7, 61, 7), 61]),
        (95, 3, [*range(4, 95, 4), 95]),
    ],
)
def test_no_more_than_thirty_steps_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, every: int, kept: list[int]
) -> None:
    monkeypatch.setattr(lib_addift.training.run, "preview_strip", lambda *_: Image.new("RGB", (5 * 64, 64)))
    run = start(
        FakeHost(tmp_path), keep_snapshots=True, max_train_steps=steps, preview_every=every, layers="convolutions"
    )
    list(run.events())
    assert list(run.snapshots) == kept
    assert len(kept) <= 30


@pytest.mark.parametrize("prompt", ["", "a face"])
def test_watching_does_not_change_what_is_learnt(tmp_path: Path, prompt: str) -> None:
    contents = []
    for keep_snapshots in (False, True):
        folder = tmp_path / f"{keep_snapshots}"
        run = finish(FakeHost(folder), keep_snapshots=keep_snapshots, max_train_steps=7, preview_every=1, prompt=prompt)
        assert len(run.snapshots) == 7 * keep_snapshots
        contents.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert contents[0] == contents[1]


def test_a_snapshot_is_the_lora_of_its_step_and_stays_it(tmp_path: Path) -> None:
    whole = finish(FakeHost(tmp_path), keep_snapshots=True, preview_every=1)
    for step in (1, 2, 3):
        run = start(FakeHost(tmp_path / f"{step}"))
        for event in run.events():
            if label(event) == f"step {step}":
                run.stop()
        kept = whole.snapshots[step].tensors
        assert kept.keys() == run.learnt.keys()
        assert all(torch.equal(kept[key], run.learnt[key]) for key in kept), f"step {step}"
    first, last = whole.snapshots[1].tensors, whole.snapshots[3].tensors
    assert any(not torch.equal(first[key], last[key]) for key in first)


def test_the_strip_of_a_snapshot_is_drawn_with_the_lora_of_that_step(tmp_path: Path) -> None:
    run = finish(FakeHost(tmp_path), keep_snapshots=True, preview_every=1, calibrate=False, learning_rate=0.01)
    one, _, three = (np.asarray(snapshot.strip) for snapshot in run.snapshots.values())
    assert np.array_equal(three, np.asarray(run.results[0].strip)), "without calibration the last one is the result's"
    assert not np.array_equal(one, three)
    middle = np.s_[:CELL, 2 * CELL : 3 * CELL]
    assert np.array_equal(one[middle], three[middle]), "weight 0 is the model alone"


def test_training_time_is_that_of_the_steps_and_their_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost(tmp_path)
    monkeypatch.setattr(lib_addift.training.run, "time", SimpleNamespace(monotonic=lambda: float(host.calls)))
    run = finish(host, keep_snapshots=True, max_train_steps=4, preview_every=1, save_every=2)
    assert [(result.steps, result.train_seconds) for result in run.results] == [(2, 1 + 2.0), (4, 1 + 4.0)]
    assert host.calls > 30, "the proof and the strips are most of the work here"


def test_a_kept_step_is_proved_and_saved_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    before = fingerprint(host.unet)
    run = finish(host, keep_snapshots=True, preview_every=1, save_precision="fp32", calibrate=False)
    assert [event.text for event in run.keep(2)] == ["proving it: the round trip", "drawing the preview", "saving"]
    kept = run.results[-1]
    assert (kept.path.name, kept.steps, kept.tag) == ("blink-step2.safetensors", 2, "<lora:blink-step2:1>")
    saved, metadata = read_lora(kept.path)
    assert all(torch.equal(saved[key], tensor) for key, tensor in run.snapshots[2].tensors.items())
    assert json.loads(metadata["addift.report"])["steps"] == 2
    assert fingerprint(host.unet) == before
    assert run.results[0].steps == run.steps_done == 3
    assert np.array_equal(np.asarray(kept.strip), np.asarray(run.snapshots[2].strip))


def test_a_step_that_was_not_kept_cannot_be_saved(tmp_path: Path) -> None:
    run = start(FakeHost(tmp_path), keep_snapshots=True, max_train_steps=5, preview_every=2)
    for step in (None, 2):
        with pytest.raises(TrainingError):
            list(run.keep(step))
    list(run.events())
    with pytest.raises(TrainingError, match=r"step 3 was not kept: choose one of the kept steps \(2, 4, 5\)"):
        list(run.keep(3))
    assert len(run.results) == 1


@pytest.mark.parametrize("where", ["proving it: the round trip", "drawing the preview", "kept 3"])
def test_a_run_that_is_stopped_at_its_end_can_be_kept(tmp_path: Path, where: str) -> None:
    run = start(FakeHost(tmp_path), keep_snapshots=True, preview_every=1)
    for event in run.events():
        if label(event) == where:
            run.stop()
    assert (files(tmp_path), run.results) == ([], [])
    list(run.keep())
    assert [result.path.stem for result in run.results] == ["blink-step3"]


def test_the_model_must_be_the_one_of_the_start(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    run = finish(host, keep_snapshots=True, preview_every=1)
    late = start(host, "late")
    calls, host.model_title = host.calls, "other.safetensors"
    for work in (late.events(), run.keep(2), run.keep()):
        with pytest.raises(HostError, match=r"is now 'other\.safetensors' and was 'fake\.safetensors'.*Train again\."):
            list(work)
    assert (host.calls, len(run.results), late.results) == (calls, 1, [])


# Names and folders


def test_an_existing_name_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "blink.safetensors").write_bytes(b"precious")
    host = FakeHost(tmp_path)
    with pytest.raises(LoraFileError, match="already has 'blink.safetensors'"):
        start(host)
    assert host.calls == 0
    assert (tmp_path / "blink.safetensors").read_bytes() == b"precious"
    assert files(tmp_path) == ["blink.safetensors"]


def test_overwriting_replaces_the_lora_and_what_belongs_to_it(tmp_path: Path) -> None:
    for suffix in (".safetensors", ".json", ".png"):
        (tmp_path / f"blink{suffix}").write_bytes(b"old")
    finish(FakeHost(tmp_path), overwrite=True)
    assert files(tmp_path) == ["blink.json", "blink.png", "blink.safetensors"]
    assert all(path.read_bytes() != b"old" for path in tmp_path.iterdir())


def test_a_name_taken_while_training_is_not_overwritten(tmp_path: Path) -> None:
    run = start(FakeHost(tmp_path))
    with pytest.raises(LoraFileError, match="exists already"):
        for event in run.events():
            if label(event) == "step 3":
                (tmp_path / "blink.safetensors").write_bytes(b"precious")
    assert files(tmp_path) == ["blink.safetensors"]
    assert (tmp_path / "blink.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["a/b", "..", "", "con", "x" * 300, "\U0001f600" * 80])
def test_a_bad_name_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    host = FakeHost(tmp_path)
    with pytest.raises(LoraFileError):
        start(host, name)
    assert host.calls == 0
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["v1.5", "\U0001f600", "two words", "größer"])
def test_an_unusual_name_works_as_it_is(tmp_path: Path, name: str) -> None:
    run = finish(FakeHost(tmp_path), name)
    assert files(tmp_path) == sorted(f"{name}.{suffix}" for suffix in ("json", "png", "safetensors"))
    assert run.results[0].path.stem == name


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Lora").write_text("no folder")
    with pytest.raises(LoraFileError, match="choose a folder"):
        start(FakeHost(tmp_path / "Lora"))


def test_identical_pictures_are_refused_before_any_work(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    with pytest.raises(PictureError, match="identical"):
        TrainingRun(host, Request.of(ORIGINAL, ORIGINAL.copy(), "blink", TrainConfig.create()))
    assert host.calls == 0
    assert files(tmp_path) == []


# Errors in the middle


class BrokenHost(FakeHost):
    """Raises `error` in the next prediction, or in its backward pass, once `error` is set."""

    error: BaseException | None = None
    in_backward = False

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        result = super().predict_noise(latents, timesteps, cond)
        if self.error is not None and not self.in_backward:
            raise self.error
        if self.error is not None:
            result.register_hook(self._raise)
        return result

    def _raise(self, _gradient: torch.Tensor) -> None:
        assert self.error is not None
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("broken"), torch.cuda.OutOfMemoryError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    "where",
    ["encoding the pictures", "step 1", "step 2", "proving it: the round trip", "drawing the preview"],
)
def test_an_error_anywhere_leaves_model_and_folder_alone(tmp_path: Path, where: str, error: BaseException) -> None:
    host = BrokenHost(tmp_path)
    before = fingerprint(host.unet)
    run = start(host)
    with pytest.raises(type(error)) as caught:
        for event in run.events():
            if label(event) == where:
                host.error = error
    assert caught.value is error
    assert fingerprint(host.unet) == before
    assert files(tmp_path) == []
    assert host.refreshed == []


def test_an_error_in_the_backward_pass_leaves_model_and_folder_alone(tmp_path: Path) -> None:
    host = BrokenHost(tmp_path)
    host.in_backward = True
    before = fingerprint(host.unet)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        for event in start(host).events():
            if label(event) == "step 1":
                host.error = torch.cuda.OutOfMemoryError("full")
    assert fingerprint(host.unet) == before
    assert files(tmp_path) == []


def test_after_an_error_what_was_learnt_can_still_be_kept(tmp_path: Path) -> None:
    host = BrokenHost(tmp_path)
    run = start(host)
    with pytest.raises(RuntimeError, match="broken"):
        for event in run.events():
            if label(event) == "step 2":
                host.error = RuntimeError("broken")
    host.error = None
    list(run.keep())
    assert files(tmp_path) == ["blink-step2.json", "blink-step2.png", "blink-step2.safetensors"]


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


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0.0, -1e-4, 1.5])
def test_a_senseless_learning_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainConfig.create(learning_rate=rate)


@pytest.mark.parametrize("rate", [1e-9, 1.0])
def test_at_the_bounds_of_the_learning_rate_a_file_is_finite_or_refused(tmp_path: Path, rate: float) -> None:
    try:
        run = finish(FakeHost(tmp_path), learning_rate=rate, max_train_steps=20)
    except AddiftError:
        assert files(tmp_path) == []
        return
    tensors, _ = read_lora(run.results[0].path)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert any(tensor.any() for key, tensor in tensors.items() if "lora_up" in key)


# Calibration


@pytest.mark.parametrize("weight", [0.5, -0.5, 3.0])
def test_calibration_folds_the_best_weight_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    proof = RoundTrip(recovery=0.8, weight=weight, curve=((weight, 0.8),))
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: proof)
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


def test_what_was_not_learnt_is_not_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: RoundTrip(0.05, 3.0, ()))
    result = finish(FakeHost(tmp_path)).results[0]
    tensors, metadata = read_lora(result.path)
    assert result.weight == 1.0
    assert {tensor.item() for key, tensor in tensors.items() if key.endswith("alpha")} == {4.0}
    assert json.loads(metadata["addift.report"])["calibrated"] is False


# The proof, on a model whose right answer is known


class PainterHost(FakeHost):
    """A model that sees one picture in whatever it is shown, moved by what the LoRA adds: any sampler ends just there.

    The picture is none of the pair's, as noising loses much of a real one. The LoRA joins the one layer of the UNet,
    which says nothing without it.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.unet = nn.ModuleDict({"canvas": nn.Linear(1, size, bias=False)})
        nn.init.zeros_(self.unet["canvas"].weight)
        self.unet.requires_grad_(False)
        self._seen = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        moved = self.unet["canvas"](torch.ones(len(latents), 1)).view(latents.shape)
        abar = sd15_alphas_cumprod()[timesteps].view(-1, 1, 1, 1)
        return (latents - abar.sqrt() * (self._seen + moved)) / (1 - abar).sqrt()


def painted_proof(
    learnt: torch.Tensor, difference: torch.Tensor, mask: torch.Tensor | None = None, host: PainterHost | None = None
) -> RoundTrip:
    """The round trip of a LoRA that moves the picture by `learnt` at weight 1; the pair differs by `difference`."""
    host = host or PainterHost(difference.numel())
    name = kohya("canvas")
    layer = LoraLayer(torch.ones(1, 1), learnt.reshape(-1, 1), alpha=1.0, conv=None)
    network = LoraNetwork({name: layer}, {name: host.unet["canvas"]})
    cond = Conditions(torch.zeros(1, 5, 6))
    pair = LatentPair(Side(torch.zeros_like(difference), cond), Side(difference, cond), mask)
    with network.attach():
        return round_trip(host, network, [pair], TrainConfig.create(sampling_steps=3))


DIFFERENCE = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def best_score(proof: RoundTrip) -> float:
    return max(score for _, score in proof.curve)


WEIGHTS = [0.25, 0.3, 0.55, 0.75, 0.9, 1.5, 2.4, -0.25, -0.5]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_score_of_the_round_trip_is_the_share_that_is_reproduced(weight: float) -> None:
    """At w, w / weight of the difference appears: 1 - (w / weight - 1)^2 is left of its square."""
    for tried, score in painted_proof(DIFFERENCE / weight, DIFFERENCE).curve:
        assert score == pytest.approx(1 - (tried / weight - 1) ** 2, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_round_trip_finds_the_weight_that_reproduces_the_difference(weight: float) -> None:
    """Nearly: of the weights that are almost as good as the best, the weakest is taken."""
    proof = painted_proof(DIFFERENCE / weight, DIFFERENCE)
    # The score is 1 - (w / weight - 1)^2 here, so 0.98 of the best is met at 0.86 of the weight; the grid may miss it.
    assert 0.83 <= proof.weight / weight <= 1.7
    assert proof.recovery == pytest.approx(dict(proof.curve)[proof.weight])
    assert proof.recovery >= 0.75 * _NEARLY, "the coarsest part of the grid, backwards, meets 0.75 of it"


@pytest.mark.parametrize("weight", [0.7, 0.8, 0.9, 1.1])
def test_where_most_loras_have_their_best_weight_the_round_trip_tries_few(weight: float) -> None:
    assert len(painted_proof(DIFFERENCE / weight, DIFFERENCE).curve) <= WEIGHTS_TRIED <= 6


@pytest.mark.parametrize("top", [-1.0, 1.0, 8.0, 14.0])
def test_a_top_behind_a_dip_is_found_where_the_near_one_is_no_proof(
    top: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two peaks in units of the training multiplier: one of 0.15 where the search begins, and the LoRA's own."""

    def score(weight: float) -> float:
        units = weight / TrainConfig().train_multiplier
        return max(0.15 - (units - 3) ** 2, 0.9 - ((units - top) / (0.3 * top)) ** 2, -0.5)

    monkeypatch.setattr(_Probe, "scores", lambda _self, weights: {weight: score(weight) for weight in weights})
    proof = painted_proof(DIFFERENCE, DIFFERENCE)
    assert proof.weight / TrainConfig().train_multiplier == pytest.approx(top, rel=0.1)
    assert proof.recovery >= 0.9 * _NEARLY


def test_the_verdict_is_a_sentence_for_each_outcome() -> None:
    assert painted_proof(DIFFERENCE / 0.5, DIFFERENCE).verdict.startswith("The LoRA reproduces ")
    backwards = painted_proof(-DIFFERENCE / 0.25, DIFFERENCE)
    assert backwards.weight < 0
    assert backwards.verdict.startswith("The LoRA learnt the difference backwards (")
    assert "negative weight" in backwards.verdict
    nothing = painted_proof(torch.zeros_like(DIFFERENCE), DIFFERENCE)
    assert nothing.verdict.startswith("The LoRA did not learn the difference: it reproduces 0% of it.")


def test_a_lora_that_learnt_something_else_is_found_out() -> None:
    other = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    proof = painted_proof(other, DIFFERENCE)
    assert proof.recovery < 0.1
    assert proof.verdict.startswith("The LoRA did not learn the difference")
    assert painted_proof(torch.zeros_like(DIFFERENCE), DIFFERENCE).recovery == 0.0


def test_half_of_the_difference_counts_as_half() -> None:
    half = DIFFERENCE.clone()
    half[..., :4] = 0
    share = (half.square().sum() / DIFFERENCE.square().sum()).item()
    proof = painted_proof(half / 0.75, DIFFERENCE)
    assert best_score(proof) == pytest.approx(share, abs=1e-4)
    assert 0.99 * _NEARLY * share <= proof.recovery <= share + 1e-4


def test_changes_outside_the_mask_count_little() -> None:
    mask = torch.full((1, 1, 8, 8), 1e-6)
    mask[..., :4] = 1.0
    inside = DIFFERENCE * (mask == 1)
    noisy = inside + 5 * (DIFFERENCE - inside)
    assert best_score(painted_proof(noisy / 0.75, inside, mask)) == pytest.approx(1.0, abs=1e-3)
    assert painted_proof(noisy / 0.75, inside).recovery < 0.2


def test_a_mask_that_is_the_same_everywhere_changes_no_score() -> None:
    even = painted_proof(DIFFERENCE, DIFFERENCE, mask=torch.full((1, 1, 8, 8), 0.3))
    assert dict(even.curve) == pytest.approx(dict(painted_proof(DIFFERENCE, DIFFERENCE).curve), rel=1e-4, abs=1e-4)


def test_the_curve_holds_every_weight_that_was_tried() -> None:
    proof = painted_proof(DIFFERENCE, DIFFERENCE)
    weights = [weight for weight, _ in proof.curve]
    assert weights == sorted(set(weights))
    assert {0.75, 1.0, 1.5} <= set(weights), "the best one, and one on each side of it"
    assert dict(proof.curve)[1.0] == pytest.approx(1.0, abs=1e-4)


def test_where_nothing_is_reproduced_both_directions_were_tried() -> None:
    curve = dict(painted_proof(-DIFFERENCE / 20, DIFFERENCE).curve)
    assert {-0.25, 0.25, 3.5, -3.5} <= set(curve)
    assert curve[0.25] == pytest.approx(1 - (1 + 0.25 / 20) ** 2, abs=1e-3), "the wrong way: farther off than nothing"


class OverflowingHost(PainterHost):
    """A half-precision model that overflows when the LoRA moves it too far."""

    limit = 1.1 * DIFFERENCE.abs().max()

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        moved = self.unet["canvas"](torch.ones(len(latents), 1)).abs().amax(dim=1).view(-1, 1, 1, 1)
        return super().predict_noise(latents, timesteps, cond).masked_fill(moved > self.limit, float("nan"))


def test_weights_at_which_the_model_overflows_do_not_hide_the_best() -> None:
    proof = painted_proof(DIFFERENCE / 0.75, DIFFERENCE, host=OverflowingHost(DIFFERENCE.numel()))
    assert 0.75 * 0.85 <= proof.weight <= 0.75
    assert proof.recovery > 0.97


def test_strength_multiplies_the_weight(tmp_path: Path) -> None:
    plain, strong = (
        finish(FakeHost(tmp_path / f"{strength}"), calibrate=False, strength=strength).results[0]
        for strength in (1.0, 2.5)
    )
    assert (plain.weight, strong.weight) == (1.0, 2.5)


def test_the_pictures_of_the_round_trip_show_both_ways() -> None:
    """The painter ends at the picture it sees, moved by what the LoRA adds at +weight or at -weight."""
    host, learnt = PainterHost(DIFFERENCE.numel()), 0.2 * DIFFERENCE
    name, cond = kohya("canvas"), Conditions(torch.zeros(1, 5, 6))
    layer = LoraLayer(torch.ones(1, 1), learnt.reshape(-1, 1), alpha=1.0, conv=None)
    network = LoraNetwork({name: layer}, {name: host.unet["canvas"]})
    original, target = torch.full_like(DIFFERENCE, -0.5), torch.full_like(DIFFERENCE, 0.5)
    with network.attach():
        row = round_trip_pictures(
            host, network, LatentPair(Side(original, cond), Side(target, cond), None), TrainConfig.create(), 1.5
        )
    seen = host._seen
    expected = [original, seen, seen + 1.5 * learnt, target, seen, seen - 1.5 * learnt]
    assert row.width == 6 * CELL
    for place, latents in enumerate(expected):
        shown = np.asarray(row)[:CELL:2, place * CELL : (place + 1) * CELL : 2].astype(int)
        assert abs(shown - host.decode_latents(latents)[0]).max() <= 1, f"picture {place}"
