"""A saved training as bytes, and a run that goes on from them."""

from __future__ import annotations

import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.jobs.resume_file import read_resume_state, resume_bytes
from lib_addift.training.events import ResumeState
from lib_addift.training.loop import train_one
from tests.support.fake_host import FakeHost
from tests.support.training import make_state, pair_of


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_a_restored_state_goes_on_to_the_same_bits(optimizer: str) -> None:
    host, config = FakeHost(), TrainConfig.create("action", max_train_steps=8, learning_rate=1e-3, optimizer=optimizer)
    pair = pair_of(host, config, 1)
    whole = make_state(host, [pair], config)
    losses = [report.loss for report in train_one(host, whole)]
    first = make_state(host, [pair], config)
    steps = train_one(host, first)
    for _ in range(5):
        next(steps)
    data = resume_bytes(ResumeState(5, 1.5, first.state_dict()))
    kept = read_resume_state(data)
    assert (kept.step, kept.train_seconds) == (5, 1.5)
    second = make_state(host, [pair], config)
    second.load_state_dict(kept.state)
    assert [report.loss for report in train_one(host, second)] == losses[5:]
    ours, theirs = whole.network.tensors(), second.network.tensors()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
