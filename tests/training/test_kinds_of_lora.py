"""Training with every kind of LoRA: it learns, is resumed exactly, and kept steps are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.jobs.resume_file import read_resume_state, resume_bytes
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Request, ResumeState
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.fake_host import FakeHost
from tests.support.lora_networks import KINDS, every_kind, predict
from tests.support.models import fingerprint

SETTINGS = {
    "max_train_steps": 40, "learning_rate": 1e-4, "sampling_steps": 2, "mask": "off", "layers": LAYER_KINDS,
    "blocks": BLOCKS, "timestep_bands": 1, "min_timestep": 700, "preview_every": 10, "save_precision": "fp32",
    "directions": "both", "batch_size": 2,
}  # fmt: skip


def start(host: FakeHost, checkpoint: ResumeState | None = None, **settings: Any) -> TrainingRun:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    request = Request.of(*pictures, "blink", TrainConfig.create("action", **{**SETTINGS, **settings}), overwrite=True)
    return TrainingRun(host, request, keep_snapshots=True, resume_state=checkpoint)


@pytest.mark.slow
@every_kind
def test_each_kind_learns_and_leaves_the_model_as_it_was(tmp_path: Path, kind: str) -> None:
    host = FakeHost(tmp_path)
    before = fingerprint(host.unet)
    run = start(host, **KINDS[kind])
    losses = [event.loss for event in run.events() if isinstance(event, StepReport)]
    assert fingerprint(host.unet) == before
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    (result,) = run.results
    tensors, _ = read_lora(result.path)
    network = LoraNetwork.from_tensors(tensors, host.unet, host.lora_name)
    plain = predict(host)
    with network.attach():
        assert (predict(host) - plain).abs().max() > 1e-3


@pytest.mark.slow
@every_kind
def test_a_training_with_dropout_that_is_resumed_ends_bit_by_bit_the_same(tmp_path: Path, kind: str) -> None:
    settings = {**KINDS[kind], "dropout": 0.3, "lora_plus_ratio": 4.0, "max_train_steps": 12, "preview_every": 4}
    whole = start(FakeHost(tmp_path), **settings)
    kept = [event for event in whole.events() if isinstance(event, ResumeState)]
    resumed = start(FakeHost(tmp_path), read_resume_state(resume_bytes(kept[0])), **settings)
    list(resumed.events())
    assert kept[0].step == 4
    assert all(torch.equal(tensor, resumed.learnt[key]) for key, tensor in whole.learnt.items())
    without = start(FakeHost(tmp_path), **{**settings, "dropout": 0.0})
    list(without.events())
    assert any(not torch.equal(tensor, without.learnt[key]) for key, tensor in whole.learnt.items())


@every_kind
def test_a_kept_step_is_proven_and_saved_again(tmp_path: Path, kind: str) -> None:
    """From the tensors of a snapshot, as after a restart."""
    host = FakeHost(tmp_path)
    run = start(host, **KINDS[kind], max_train_steps=20)
    list(run.events())
    list(run.keep(10))
    assert [result.path.stem for result in run.results] == ["blink", "blink-step10"]
