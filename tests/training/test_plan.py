from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction, LatentPair
from lib_addift.training.methods import method_of
from lib_addift.training.plan import make_plan, plan_phases
from tests.support.fake_host import FakeHost
from tests.support.training import pairs_of

QUICK = {"max_train_steps": 4, "sampling_steps": 2, "rank": 2, "learning_rate": 1e-3, "mask": "off"}


@st.composite
def configs(draw: st.DrawFn) -> TrainConfig:
    bands = draw(st.integers(1, 12))
    low = draw(st.integers(0, 900))
    return TrainConfig.create(
        "action",
        min_timestep=low,
        max_timestep=draw(st.integers(low + bands, 1000)),
        timestep_bands=bands,
        max_train_steps=draw(st.integers(1, 60)),
        batch_size=draw(st.integers(1, 3)),
        directions=draw(st.sampled_from(["alternate", "both", "forward"])),
        first_direction=draw(st.sampled_from(["forward", "reverse"])),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@given(configs(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_plan_has_its_steps_its_bands_and_its_pairs(config: TrainConfig, pairs: int) -> None:
    plan = make_plan(config, pairs)
    assert len(plan) == config.max_train_steps
    forward_first = config.first_direction == "forward"
    visits = []
    for step, samples in enumerate(plan):
        assert len(samples) == config.batch_size * (2 if config.directions == "both" else 1)
        assert all(config.min_timestep <= sample.timestep < config.max_timestep for sample in samples)
        expected_first = forward_first ^ (config.directions == "alternate" and step % 2 == 1)
        assert (samples[0].direction is Direction.FORWARD) == expected_first
        if config.directions != "alternate" or step % 2 == 0:
            visits += samples[: config.batch_size]
    width = config.max_timestep - config.min_timestep
    for number, sample in enumerate(visits):
        assert sample.pair == number % pairs
        band = (number // pairs) % config.timestep_bands
        low = config.min_timestep + width * band // config.timestep_bands
        high = config.min_timestep + width * (band + 1) // config.timestep_bands
        assert low <= sample.timestep < high


@given(configs())
@settings(max_examples=30, deadline=None)
def test_both_directions_of_a_visit_share_pair_timestep_and_noise(config: TrainConfig) -> None:
    samples = [sample for step in make_plan(config) for sample in step]
    by_noise: dict[int, list[tuple[int, int]]] = {}
    for sample in samples:
        by_noise.setdefault(sample.noise_seed, []).append((sample.pair, sample.timestep))
    assert all(len(set(uses)) == 1 for uses in by_noise.values())


def test_same_seed_same_plan_and_another_seed_another_plan() -> None:
    assert make_plan(TrainConfig.create("action", seed=5)) == make_plan(TrainConfig.create("action", seed=5))
    assert make_plan(TrainConfig.create("action", seed=5)) != make_plan(TrainConfig.create("action", seed=6))


def test_timesteps_fill_each_band_uniformly() -> None:
    config = TrainConfig.create(
        "action", min_timestep=500, max_timestep=1000, max_train_steps=20_000, directions="forward"
    )
    timesteps = torch.tensor([samples[0].timestep for samples in make_plan(config)], dtype=torch.float64)
    for band in range(config.timestep_bands):
        inside = timesteps[band :: config.timestep_bands]
        low = 500 + 100 * band
        assert len(inside.unique()) > 95, "a band must not collapse to a few timesteps"
        # The mean of 4000 uniform draws from 100 values has a standard deviation of 0.46.
        assert abs(inside.mean().item() - (low + 49.5)) < 2.5
        assert abs(inside.std().item() - 28.87) < 1.5


def test_repeats_are_how_often_a_picture_is_seen() -> None:
    config = TrainConfig.create("action", method="lora", **{**QUICK, "max_train_steps": 8})
    host = FakeHost()
    one, other = pairs_of(host, config, 2)
    often = LatentPair(one.original, one.target, None, repeats=3)
    (phase_plan,) = plan_phases(config, method_of(config).phases(config, 2), [often, other])
    assert [sample.pair for samples in phase_plan.steps for sample in samples] == [0, 0, 0, 1] * 2


@pytest.mark.parametrize("directions", ["both", "alternate"])
def test_every_pair_and_every_view_comes_equally_often_in_every_band(directions: str) -> None:
    config = TrainConfig.create(
        "action", max_train_steps=480, timestep_bands=4, mirror="on", zoom=2.0, directions=directions
    )
    samples = [sample for step in make_plan(config, pairs=3, views=4) for sample in step]
    assert set(Counter(sample.pair // 4 for sample in samples).values()) == {len(samples) // 3}
    width = (config.max_timestep - config.min_timestep) // 4
    met = Counter((sample.pair, (sample.timestep - config.min_timestep) // width) for sample in samples)
    assert set(met.values()) == {len(samples) // 48}, "12 views, 4 bands"
    by_noise: dict[int, set[tuple[int, int]]] = {}
    for sample in samples:
        by_noise.setdefault(sample.noise_seed, set()).add((sample.pair, sample.timestep))
    assert all(len(each) == 1 for each in by_noise.values()), "both directions of a visit see the same"
