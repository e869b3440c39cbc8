"""One run while it learns: steps that are skipped, and the rates of its parts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import text_layers
from lib_addift.diffusion.latents import encode_pair
from lib_addift.errors import TrainingError
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from lib_addift.training.loop import train_one
from lib_addift.training.methods import method_of
from lib_addift.training.plan import plan_phases, teacher_samples
from lib_addift.training.state import TrainState
from lib_addift.training.targets import TeacherPredictions, sample_noise
from tests.support.fake_host import FakeHost
from tests.support.training import ORIGINAL, TARGET, make_state, pairs_of, run

QUICK = {"max_train_steps": 4, "sampling_steps": 2, "rank": 2, "learning_rate": 1e-3, "mask": "off"}


class NonFiniteHost(FakeHost):
    """Predicts NaN in the given calls."""

    def __init__(self, bad_calls: set[int]) -> None:
        super().__init__()
        self._bad_calls = bad_calls

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        result = super().predict_noise(latents, timesteps, cond)
        return result * float("nan") if self.calls in self._bad_calls else result


def test_a_non_finite_step_is_skipped_and_counted() -> None:
    _, reports = run(TrainConfig.create("action", max_train_steps=6, seed=3), host=NonFiniteHost({4}))
    assert [r.skipped for r in reports] == [0, 0, 1, 1, 1, 1]


def test_a_run_without_finite_steps_fails_with_the_reason() -> None:
    with pytest.raises(TrainingError, match="not finite"):
        run(TrainConfig.create("action", max_train_steps=60), host=NonFiniteHost(set(range(2, 100))))


def test_the_text_encoder_learns_at_its_own_rate() -> None:
    def grown(rate: float) -> dict[str, float]:
        config = TrainConfig.create(
            "action",
            method="lora",
            train_text_encoder=True,
            prompt="a cat",
            text_encoder_rate=rate,
            optimizer="SGD",
            **QUICK,
        )
        host = FakeHost()
        modules = {**select_layers(host.unet, host.lora_name, layers=config.layers, blocks=config.blocks)}
        network = LoraNetwork.create({**modules, **text_layers(host)}, rank=2, alpha=2.0, seed=1)
        pairs = pairs_of(host, config)
        plans = plan_phases(config, method_of(config).phases(config, 1), pairs)
        teacher = TeacherPredictions(host, pairs, teacher_samples(plans))
        state = TrainState(host, [network], plans=plans, pairs=pairs, teacher=teacher, config=config)
        next(train_one(host, state))
        return {name: float(layer.lora_up.detach().norm()) for name, layer in network.layers.items()}

    slow, fast = grown(0.25), grown(1.0)
    for name, size in fast.items():
        assert size > 0
        assert slow[name] == pytest.approx(size / 4 if name.startswith("lora_te") else size, rel=1e-4)


def test_a_share_of_what_is_learnt_is_the_target_itself_where_the_pictures_differ() -> None:
    host, config = FakeHost(), TrainConfig.create("action", max_train_steps=1)
    pair = encode_pair(host, ImagePair(ORIGINAL, TARGET, None), config)
    plain, mixed, whole = (
        make_state(host, [pair], dataclasses.replace(config, target_share=share)) for share in (0.0, 0.5, 1.0)
    )
    for sample in plain.samples:
        for state in (plain, mixed, whole):
            state.teacher.prefetch(state.samples)
        guess, noise = plain.teacher[sample], sample_noise(sample, pair.original.latents.shape)
        assert torch.equal(plain.target(sample), guess)
        torch.testing.assert_close(mixed.target(sample), guess + 0.5 * pair.change * (noise - guess))
        torch.testing.assert_close(whole.target(sample), guess + pair.change * (noise - guess))
    assert 0 < pair.change.mean() < 1
