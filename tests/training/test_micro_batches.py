"""Micro-batches: a step in several passes where memory is short."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import lib_addift.training.micro_batches
from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.memory import MicroBatching
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.models import fingerprint
from tests.support.training import skip_evaluation

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
WAYS = [
    MicroBatching(5, False),
    MicroBatching(3, False),
    MicroBatching(2, False),
    MicroBatching(1, False),
    MicroBatching(1, True),
]


class SmallHost(StandaloneHost):
    """Has memory for so many samples at once; with gradients for one more where blocks are not kept."""

    with_gradients = without = 100
    recomputed = 0  # passes

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        recomputes = any("forward" in vars(part) for part in self.unet.get_submodule("up_blocks").modules())
        room = self.with_gradients + recomputes if torch.is_grad_enabled() else self.without
        if len(latents) > room:
            raise torch.cuda.OutOfMemoryError("full")
        self.recomputed += recomputes
        return super().predict_noise(latents, timesteps, cond)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> SmallHost:
    return SmallHost(CHECKPOINT, lora_dir=tmp_path_factory.mktemp("Lora"), device="cpu")


def learn(host: SmallHost, name: str, **settings: Any) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The notes of the steps, and the LoRA. The model is as before."""
    host.recomputed = 0
    before = fingerprint(host.unet)
    config = TrainConfig.create("action", max_train_steps=3, save_precision="fp32", **settings)
    training = TrainingRun(host, Request((PairSource(ORIGINAL, TARGET),), name, config, overwrite=True))
    notes = [event.note for event in training.events() if isinstance(event, StepReport)]
    assert fingerprint(host.unet) == before
    return notes, read_lora(training.results[0].path)[0]


@pytest.fixture(scope="module")
def roomy(host: SmallHost) -> dict[str, torch.Tensor]:
    """What is learnt with plenty of memory."""
    with pytest.MonkeyPatch.context() as patch:
        skip_evaluation(patch)
        return learn(host, "roomy")[1]


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-2, atol=1e-5)


@pytest.mark.slow
def test_what_does_not_fit_is_known_before_the_first_step(
    host: SmallHost, roomy: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_evaluation(monkeypatch)
    monkeypatch.setattr(lib_addift.training.micro_batches, "free_bytes", lambda _device: 1)
    notes, learnt = learn(host, "planned")
    assert notes == [
        f"memory is short: from now on {WAYS[-1]}, which is slower", "", "",
    ]  # fmt: skip
    assert host.recomputed == 6, "one pass for each of two samples, thrice"
    same(learnt, roomy)


def test_a_gpu_with_room_is_used(
    host: SmallHost, roomy: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_evaluation(monkeypatch)
    monkeypatch.setattr(lib_addift.training.micro_batches, "free_bytes", lambda _device: 2**30)
    notes, learnt = learn(host, "room")
    assert notes == ["", "", ""]
    assert host.recomputed == 0
    same(learnt, roomy)


@pytest.mark.slow
def test_a_full_gpu_is_met_by_all_there_is(
    host: SmallHost, roomy: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_evaluation(monkeypatch)
    monkeypatch.setattr(host, "with_gradients", 0)
    monkeypatch.setattr(host, "without", 3)
    notes, learnt = learn(host, "full")
    assert "1 at a time and its blocks are computed twice" in notes[0]
    assert notes[1:] == ["", ""]
    same(learnt, roomy)


@pytest.mark.slow
def test_blocks_are_computed_twice_where_that_is_asked_for(
    host: SmallHost, roomy: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_evaluation(monkeypatch)
    notes, learnt = learn(host, "asked", gradient_checkpointing=True)
    assert notes == ["", "", ""]
    assert host.recomputed == 3
    same(learnt, roomy)


@pytest.mark.slow
def test_a_proof_that_does_not_fit_is_made_in_parts(host: SmallHost, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"sampling_steps": 1, "preview_every": 0}
    _, expected = learn(host, "whole", **settings)
    monkeypatch.setattr(host, "without", 3)
    _, learnt = learn(host, "parts", **settings)
    same(learnt, expected)


def test_phases_with_more_samples_than_the_first_step_are_not_cut() -> None:
    steps = [[(1,)], [(1, 2, 3)]]
    state = SimpleNamespace(plans=[SimpleNamespace(steps=each) for each in steps], config=TrainConfig())
    assert lib_addift.training.micro_batches.wished([state, state]) == MicroBatching(6, recomputes=False)  # type: ignore[list-item]
