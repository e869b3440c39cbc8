from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import lib_addift.training.loop
import lib_addift.training.run
from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import AddiftError, ConfigError, HostError, LoraFileError, TrainingError
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Snapshot
from lib_addift.training.state import StepReport
from tests.support.fake_host import FakeHost
from tests.support.models import fingerprint
from tests.support.runs import files, finish, label, start

CELL = 128  # px a picture has in a labelled row; those of 64 px are enlarged


# The whole job


def test_events_come_in_the_order_of_the_work(tmp_path: Path) -> None:
    events = list(start(FakeHost(tmp_path)).events())
    assert [label(event) for event in events] == [
        "encoding the pictures",
        "step 1", "step 2", "step 3",
        "evaluating it: the round trip", "evaluating it: new pictures", "drawing the preview", "saving",
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


@pytest.mark.slow
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
    assert [event.text for event in run.keep()] == [
        "evaluating it: the round trip",
        "evaluating it: new pictures",
        "drawing the preview",
        "saving",
    ]
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
        "evaluating it: the round trip", "evaluating it: new pictures", "drawing the preview", "kept 5", "saving",
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


def test_a_shift_is_watched_at_the_weight_at_which_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []

    def strip(*given: object) -> Image.Image:
        weights.append(given[-1])
        return Image.new("RGB", (5 * 64, 64))

    monkeypatch.setattr(lib_addift.training.run, "preview_strip", strip)
    shift = {"algorithm": "shift", "rank": 1, "alpha": 1.0, "train_multiplier": 1.0}
    list(start(FakeHost(tmp_path), keep_snapshots=True, preview_every=1, max_train_steps=2, **shift).events())
    assert weights == [0.75]


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
    monkeypatch.setattr(lib_addift.training.loop, "time", SimpleNamespace(monotonic=lambda: float(host.calls)))
    run = finish(host, keep_snapshots=True, max_train_steps=4, preview_every=1, save_every=2)
    assert [(result.steps, result.train_seconds) for result in run.results] == [(2, 1 + 2.0), (4, 1 + 4.0)]
    assert host.calls > 30, "the evaluation and the strips are most of the work here"


def test_a_kept_step_is_evaluated_and_saved_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    before = fingerprint(host.unet)
    run = finish(host, keep_snapshots=True, preview_every=1, save_precision="fp32", calibrate=False)
    assert [event.text for event in run.keep(2)] == [
        "evaluating it: the round trip",
        "evaluating it: new pictures",
        "drawing the preview",
        "saving",
    ]
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


@pytest.mark.parametrize(
    "where", ["evaluating it: the round trip", "evaluating it: new pictures", "drawing the preview", "kept 3"]
)
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


@pytest.mark.parametrize("name", ["v1.5", "\U0001f600", "two words", "größer"])
def test_an_unusual_name_works_as_it_is(tmp_path: Path, name: str) -> None:
    run = finish(FakeHost(tmp_path), name)
    assert files(tmp_path) == sorted(f"{name}.{suffix}" for suffix in ("json", "png", "safetensors"))
    assert run.results[0].path.stem == name


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
    [
        "encoding the pictures",
        "step 1",
        "step 2",
        "evaluating it: the round trip",
        "evaluating it: new pictures",
        "drawing the preview",
    ],
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


# Dead LoRAs


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0.0, -1e-4, 1.5])
def test_a_senseless_learning_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainConfig.create("action", learning_rate=rate)


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
