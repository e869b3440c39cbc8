import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction
from lib_addift.training.plan import make_plan, turn_noise


@st.composite
def configs(draw: st.DrawFn) -> TrainConfig:
    bands = draw(st.integers(1, 12))
    low = draw(st.integers(0, 900))
    return TrainConfig.create(
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
    for step, turns in enumerate(plan):
        assert len(turns) == config.batch_size * (2 if config.directions == "both" else 1)
        assert all(config.min_timestep <= turn.timestep < config.max_timestep for turn in turns)
        expected_first = forward_first ^ (config.directions == "alternate" and step % 2 == 1)
        assert (turns[0].direction is Direction.FORWARD) == expected_first
        if config.directions != "alternate" or step % 2 == 0:
            visits += turns[: config.batch_size]
    width = config.max_timestep - config.min_timestep
    for number, turn in enumerate(visits):
        assert turn.pair == number % pairs
        band = (number // pairs) % config.timestep_bands
        low = config.min_timestep + width * band // config.timestep_bands
        high = config.min_timestep + width * (band + 1) // config.timestep_bands
        assert low <= turn.timestep < high


@given(configs())
@settings(max_examples=30, deadline=None)
def test_both_directions_of_a_visit_share_pair_timestep_and_noise(config: TrainConfig) -> None:
    turns = [turn for step in make_plan(config) for turn in step]
    by_noise: dict[int, list[tuple[int, int]]] = {}
    for turn in turns:
        by_noise.setdefault(turn.noise_seed, []).append((turn.pair, turn.timestep))
    assert all(len(set(uses)) == 1 for uses in by_noise.values())


def test_same_seed_same_plan_and_another_seed_another_plan() -> None:
    assert make_plan(TrainConfig.create(seed=5)) == make_plan(TrainConfig.create(seed=5))
    assert make_plan(TrainConfig.create(seed=5)) != make_plan(TrainConfig.create(seed=6))


def test_timesteps_fill_each_band_uniformly() -> None:
    config = TrainConfig.create(min_timestep=500, max_timestep=1000, max_train_steps=20_000, directions="forward")
    timesteps = torch.tensor([turns[0].timestep for turns in make_plan(config)], dtype=torch.float64)
    for band in range(config.timestep_bands):
        inside = timesteps[band :: config.timestep_bands]
        low = 500 + 100 * band
        assert len(inside.unique()) > 95, "a band must not collapse to a few timesteps"
        # The mean of 4000 uniform draws from 100 values has a standard deviation of 0.46.
        assert abs(inside.mean().item() - (low + 49.5)) < 2.5
        assert abs(inside.std().item() - 28.87) < 1.5


def test_noise_depends_on_the_turn_only() -> None:
    first, second = make_plan(TrainConfig.create(directions="alternate"))[:2]
    shape = torch.Size((1, 4, 8, 8))
    torch.manual_seed(1)
    noise = turn_noise(first[0], shape)
    torch.manual_seed(2)
    assert torch.equal(noise, turn_noise(second[0], shape))
