"""Each way to learn a difference: what its steps see, what they aim at, and what comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_addift.config.settings import METHODS, TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.latents import Direction, LatentPair, Role, unrelated_pairs
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.dataset import steps_of
from lib_addift.training.events import Request
from lib_addift.training.loop import train_one
from lib_addift.training.methods import Goal, is_simple, method_of
from lib_addift.training.methods.addift import multiplier
from lib_addift.training.plan import plan_phases, teacher_samples
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import TrainState
from lib_addift.training.targets import noisy_batch, sample_noise
from tests.support.fake_host import FakeHost
from tests.support.training import delta, make_state, pairs_of, pictures

QUICK = {"max_train_steps": 4, "sampling_steps": 2, "rank": 2, "learning_rate": 1e-3, "mask": "off"}


def learnt(config: TrainConfig, count: int = 1) -> tuple[FakeHost, TrainState]:
    host = FakeHost()
    state = make_state(host, pairs_of(host, config, count), config)
    list(train_one(host, state))
    return host, state


def test_addift_is_what_it_was() -> None:
    (phase,) = method_of(TrainConfig.create("action", directions="alternate", reverse_ratio=0.5)).phases(
        TrainConfig.create("action", directions="alternate", reverse_ratio=0.5), 1
    )
    assert (phase.goal, phase.directions, phase.steps) == (Goal.MODEL, "alternate", 60)
    assert phase.multiplier(Direction.FORWARD) == 0.25
    assert phase.multiplier(Direction.REVERSE) == -0.125


@pytest.mark.parametrize("method", ["slider", "lora"])
def test_the_goal_of_drawing_pictures_is_the_noise(method: str) -> None:
    """The first step's loss, against the same computed by hand without any of the loop."""
    config = TrainConfig.create("action", method=method, **QUICK)
    host = FakeHost()
    (pair,) = pairs_of(host, config)
    state = make_state(host, [pair], config)
    samples = state.samples
    assert [sample.direction for sample in samples] == [Direction.FORWARD, Direction.REVERSE][
        : 2 if method == "slider" else 1
    ]
    losses = []
    for sample in samples:
        noisy, timesteps, cond = noisy_batch(
            [pair.student(sample.direction)], [sample], NoiseSchedule(host.alphas_cumprod)
        )
        with torch.no_grad():
            predicted = host.predict_noise(noisy, timesteps, cond)  # a fresh LoRA changes nothing
        losses.append((predicted - sample_noise(sample, pair.target.latents.shape)).square().mean())
    assert teacher_samples(state.plans) == ((),) * 4, "the frozen model is asked nothing"
    assert next(train_one(host, state)).loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_a_slider_pulls_both_ways() -> None:
    config = TrainConfig.create("action", method="slider", **QUICK)
    (phase,) = method_of(config).phases(config, 1)
    assert (phase.multiplier(Direction.FORWARD), phase.multiplier(Direction.REVERSE)) == (1.0, -1.0)


def test_lora_sees_the_targets_only() -> None:
    """Another original changes nothing."""
    config = TrainConfig.create("action", method="lora", **QUICK)
    host = FakeHost()
    (pair,) = pairs_of(host, config)
    other = LatentPair(pair.target, pair.target, None)
    results = []
    for each in (pair, other):
        state = make_state(host, [each], config)
        list(train_one(host, state))
        results.append(delta(state.network))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_copiers_second_lora_learns_on_top_of_the_first() -> None:
    config = TrainConfig.create("action", method="copier", first_train_steps=6, **QUICK)
    host, state = learnt(config)
    first, second = state.networks
    assert state.total == 10
    assert method_of(config).result(state.networks) is second
    pair = state.pairs[0]
    alone = make_state(host, [pair], TrainConfig.create("action", method="lora", **QUICK))
    list(train_one(host, alone))
    assert not torch.allclose(delta(second)[name := next(iter(delta(second)))], delta(alone.network)[name])
    # The same second LoRA, where the first is merged into the model's own weights.
    merged = FakeHost()
    for name, change in delta(first).items():
        module = next(m for path, m in merged.unet.named_modules() if merged.lora_name(path) == name)
        module.weight.data += change.detach().view_as(module.weight)
    on_top = make_state(merged, [pair], TrainConfig.create("action", method="lora", **{**QUICK, "optimizer": "SGD"}))
    list(train_one(merged, on_top))
    again = make_state(
        host,
        [pair],
        TrainConfig.create("action", method="copier", first_train_steps=6, **{**QUICK, "optimizer": "SGD"}),
    )
    again.networks[0].load_state_dict(first.state_dict())
    again._begin_phase(1)
    again.step = 6
    list(train_one(host, again))
    for name, change in delta(on_top.network).items():
        assert torch.allclose(change, delta(again.networks[1])[name], rtol=1e-3, atol=1e-3), name


def test_the_residual_is_the_target_less_the_original_exactly() -> None:
    config = TrainConfig.create("action", method="residual", **QUICK)
    host, state = learnt(config)
    originals, targets = map(delta, state.networks)
    whole = method_of(config).result(state.networks)
    assert {layer.rank for layer in whole.layers.values()} == {4}
    for name, change in delta(whole).items():
        assert torch.allclose(change, targets[name] - originals[name], atol=1e-6)
    plain = make_state(host, list(state.pairs), TrainConfig.create("action", method="lora", **QUICK))
    list(train_one(host, plain))
    for name, change in delta(plain.network).items():
        assert torch.equal(change, targets[name]), "each is learnt alone"


def test_differential_averages_over_pairs_that_each_have_their_own() -> None:
    config = TrainConfig.create("action", method="differential", first_train_steps=3, **QUICK)
    _, state = learnt(config, count=3)
    assert (len(state.networks), state.total) == (6, 3 * 7)
    for index, phase_plan in enumerate(state.plans):
        assert {sample.pair for samples in phase_plan.steps for sample in samples} == {index // 2}
    mean = delta(method_of(config).result(state.networks))
    for name, change in mean.items():
        parts = [delta(network)[name] for network in state.networks[1::2]]
        assert torch.allclose(change, torch.stack(parts).mean(dim=0), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_any_step_gives_the_same_bytes(method: str) -> None:
    config = TrainConfig.create("action", method=method, first_train_steps=2, self_regularisation=1.0, **QUICK)
    _, whole = learnt(config, count=2)
    for stop in (1, 2, 3):
        host = FakeHost()
        pairs = pairs_of(host, config, 2)
        begun, other = make_state(host, pairs, config), make_state(host, pairs, config)
        steps = train_one(host, begun)
        for _ in range(stop):
            next(steps)
        other.load_state_dict(begun.state_dict())
        list(train_one(host, other))
        for one, theirs in zip(whole.networks, other.networks, strict=True):
            for (name, tensor), again in zip(one.tensors().items(), theirs.tensors().values(), strict=True):
                assert torch.equal(tensor, again), (stop, name)


def test_self_regularisation_keeps_unrelated_predictions() -> None:
    """With it, noise under unrelated prompts is drawn more nearly as before; and the turns that learn are the same."""
    moved = {}
    for weight in (0.0, 30.0):
        config = TrainConfig.create(
            "action",
            method="lora",
            self_regularisation=weight,
            **{**QUICK, "max_train_steps": 60, "learning_rate": 1e-4},
        )
        host = FakeHost()
        pairs = pairs_of(host, config)
        regularisation = unrelated_pairs(
            host, pairs[0], TrainConfig.create("action", self_regularisation=weight or 1.0, seed=99)
        )
        trained = [*pairs, *(unrelated_pairs(host, pairs[0], config) if weight else [])]
        state = make_state(host, trained, config)
        assert len(state.samples) == (2 if weight else 1)
        plain = plan_phases(config, method_of(config).phases(config, 1), pairs)[0].steps
        assert all(samples[0] == own[0] for samples, own in zip(state.plans[0].steps, plain, strict=True))
        list(train_one(host, state))
        moved[weight] = _moved(host, state.network, regularisation)
    assert moved[30.0] < 0.5 * moved[0.0]


@torch.no_grad()
def _moved(host: FakeHost, network: LoraNetwork, pairs: list[LatentPair]) -> float:
    """How much the LoRA changes the predictions for the originals, mean square."""
    latents = torch.cat([pair.original.latents for pair in pairs])
    cond = Conditions.cat([pair.original.cond for pair in pairs])
    timesteps = torch.full((len(pairs),), 600)
    before = host.predict_noise(latents, timesteps, cond)
    network.multiplier = 1.0
    with network.attach():
        return float((host.predict_noise(latents, timesteps, cond) - before).square().mean())


def test_companions_have_goals_of_their_own() -> None:
    config = TrainConfig.create("action", method="lora", self_regularisation=1.0, **QUICK)
    host = FakeHost()
    learnt_pair, prior = pairs_of(host, config, 2)
    prior = LatentPair(prior.target, prior.target, None, role=Role.PRIOR)
    pairs = [learnt_pair, *unrelated_pairs(host, learnt_pair, config), prior]
    (phase_plan,) = plan_phases(config, method_of(config).phases(config, 1), pairs)
    for samples in phase_plan.steps:
        assert [sample.goal for sample in samples] == [Goal.NOISE, Goal.MODEL, Goal.NOISE]
        assert [pairs[sample.pair].role for sample in samples] == [Role.LEARN, Role.KEEP, Role.PRIOR]
    assert len({samples[1].pair for samples in phase_plan.steps}) == 4, "they take turns"


def test_which_methods_share_a_pass() -> None:
    simple = [method for method in METHODS if is_simple(TrainConfig.create("action", method=method))]
    assert simple == ["addift", "slider", "lora"]
    assert not is_simple(TrainConfig.create("action", method="copier", first_lora="first.safetensors"))


# From pictures to files.


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_file(method: str, tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    run = TrainingRun(
        host, Request.of(*pictures(), "made", TrainConfig.create("action", method=method, **QUICK)), keep_snapshots=True
    )
    events = list(run.events())
    (result,) = run.results
    _, metadata = read_lora(result.path)
    assert result.steps == steps_of(run.config, run.request.pairs)
    assert f'"method": "{method}"' in metadata["addift.config"]
    assert events
    assert not any(module._forward_hooks for module in host.unet.modules())


def test_the_residuals_rank_is_cut_when_asked(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    run = TrainingRun(
        host, Request.of(*pictures(), "cut", TrainConfig.create("action", method="residual", result_rank=3, **QUICK))
    )
    list(run.events())
    tensors, _ = read_lora(run.results[0].path)
    assert {tensor.shape[0] for key, tensor in tensors.items() if key.endswith("lora_down.weight")} == {3}


def test_multipliers_have_opposite_signs() -> None:
    config = TrainConfig.create("action", train_multiplier=0.25, reverse_ratio=0.5)
    assert multiplier(Direction.FORWARD, config) == 0.25
    assert multiplier(Direction.REVERSE, config) == -0.125
