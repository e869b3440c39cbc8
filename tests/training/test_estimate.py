"""The passes counted beforehand against those of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.evaluation.round_trip import TRIPS, WEIGHTS_TRIED, trip_steps
from lib_addift.training.dataset import held_out_pairs
from lib_addift.training.estimate import passes
from lib_addift.training.events import Request
from lib_addift.training.finish import MEASURED_PAIRS
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost
from tests.support.training import source

SHIFT = {"algorithm": "shift", "rank": 1, "alpha": 1.0}


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        ({}, 1),
        ({"directions": "alternate", "batch_size": 2}, 1),
        ({"prompt": "a face", "learning_rate": 1e-3, "seed": 1}, 5),
        (SHIFT, 1),
        (SHIFT, 5),
    ],
)
def test_the_passes_counted_are_those_that_a_run_takes(tmp_path: Path, settings: dict[str, Any], pairs: int) -> None:
    """But for the round trip of a kind without a weight: it tries more here than of a LoRA that learnt something."""
    samples = 0

    class CountingHost(FakeHost):
        def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
            nonlocal samples
            samples += len(latents) * (2 if torch.is_grad_enabled() else 1)  # backward costs about as much
            return super().predict_noise(latents, timesteps, cond)

    config = TrainConfig.create("action", **{"max_train_steps": 6, "sampling_steps": 3, "preview_every": 2, **settings})
    sources = tuple(source(number) for number in range(pairs))
    training = TrainingRun(CountingHost(tmp_path), Request(sources, "blink", config), keep_snapshots=True)
    list(training.events())
    tried, counted = len(training.results[0].round_trip.curve), 1 if config.kind.weight else WEIGHTS_TRIED
    assert tried == 1 if config.kind.weight else tried > WEIGHTS_TRIED
    proven = min(pairs - len(held_out_pairs(config, pairs)), MEASURED_PAIRS)
    more = (tried - counted) * proven * len(TRIPS) * trip_steps(config)
    assert passes(config, pairs) + more == pytest.approx(samples, rel=0.02)
