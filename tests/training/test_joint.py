"""Several runs in joint training: each as alone, none in another's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lib_addift.training.micro_batches
from lib_addift.config.settings import BLOCKS, LAYER_KINDS
from lib_addift.errors import HostError, TrainingError
from lib_addift.lora.file import read_lora
from lib_addift.training.joint import can_share, train_runs
from lib_addift.training.state import StepReport
from tests.support.fake_host import FakeHost
from tests.support.joint import start
from tests.support.models import fingerprint
from tests.support.training import skip_evaluation


@pytest.mark.slow
def test_each_becomes_what_it_would_have_become_alone(tmp_path: Path) -> None:
    host = FakeHost(tmp_path / "together")
    before = fingerprint(host.unet)
    runs = [start(host, seed, max_train_steps=4 + seed) for seed in range(3)]
    said = list(train_runs(runs))
    assert fingerprint(host.unet) == before
    for seed, run in enumerate(runs):
        (result,) = run.results
        alone = start(FakeHost(tmp_path / "alone"), seed, max_train_steps=4 + seed)
        list(alone.events())
        ours, theirs = (read_lora(each.results[0].path)[0] for each in (run, alone))
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=2e-3, atol=1e-5)
        assert result.round_trip.weight == pytest.approx(alone.results[0].round_trip.weight, rel=1e-3)
        assert run.snapshots.keys() == alone.snapshots.keys()
        steps = [event.step for other, event in said if other is run and isinstance(event, StepReport)]
        assert steps == list(range(1, 5 + seed))
        assert run.train_seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("room", [100, 3], ids=["in one pass", "in several"])
def test_loras_of_any_kinds_share_a_pass_and_learn_as_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    skip_evaluation(monkeypatch)
    monkeypatch.setattr(lib_addift.training.micro_batches, "WITHOUT_GPU", room * 64)
    kinds: list[dict[str, Any]] = [
        {}, {"rank": 3, "layers": LAYER_KINDS, "blocks": BLOCKS}, {"algorithm": "loha", "batch_size": 2},
        {"algorithm": "shift", "rank": 1, "alpha": 1.0}, {"dora": True}, {"dropout": 0.3},
    ]  # fmt: skip
    host = FakeHost(tmp_path / "together")
    runs = [start(host, number, max_train_steps=3 + number % 2, **kind) for number, kind in enumerate(kinds)]
    list(train_runs(runs))
    assert not any(module._forward_hooks for module in host.unet.modules())
    for number, (run, kind) in enumerate(zip(runs, kinds, strict=True)):
        alone = start(FakeHost(tmp_path / "alone"), number, max_train_steps=3 + number % 2, **kind)
        list(alone.events())
        for key, tensor in alone.learnt.items():
            torch.testing.assert_close(run.learnt[key], tensor, rtol=2e-3, atol=1e-5)


def test_one_that_fails_is_told_of_and_the_others_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeHost(tmp_path)
    good, diverging, unsaved = (start(host, seed, max_train_steps=12) for seed in (1, 2, 3))
    prepare = diverging.prepare

    def prepared() -> Any:
        yield from prepare()
        target = diverging.state.target
        monkeypatch.setattr(diverging.state, "target", lambda sample: float("nan") * target(sample))

    monkeypatch.setattr(diverging, "prepare", prepared)
    monkeypatch.setattr(unsaved, "after_step", lambda *_: (1 / 0 for _ in "x"))
    said = list(train_runs([good, diverging, unsaved]))
    errors = {run.request.name: type(event) for run, event in said if isinstance(event, Exception)}
    assert errors == {"lora2": TrainingError, "lora3": ZeroDivisionError}
    assert [run.request.name for run in (good, diverging, unsaved) if run.results] == ["lora1"]
    assert not any(module._forward_hooks for module in host.unet.modules())


def test_one_that_is_stopped_leaves_and_can_be_kept(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    going, stopped = start(host, 1), start(host, 2, max_train_steps=50)
    for run, event in train_runs([going, stopped]):
        if run is stopped and isinstance(event, StepReport) and event.step == 3:
            stopped.stop()
    assert (stopped.steps_done, stopped.results, len(going.results)) == (3, [], 1)
    list(stopped.keep())
    assert stopped.results[0].path.name == "lora2-step3.safetensors"


def test_another_model_is_everybodys_end(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    runs = [start(host, seed) for seed in (1, 2)]
    host.model_title = "other.safetensors"
    with pytest.raises(HostError, match="the model is now 'other"):
        list(train_runs(runs))


@pytest.mark.parametrize(
    ("settings", "fits"),
    [({}, True), ({"max_train_steps": 9, "learning_rate": 1e-4}, True), ({"rank": 3}, False), ({"size": 128}, False)],
)
def test_who_can_share_a_pass(tmp_path: Path, settings: dict[str, Any], fits: bool) -> None:
    host = FakeHost(tmp_path)
    assert can_share(start(host, 1), start(host, 2, **settings)) is fits
