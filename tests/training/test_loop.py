from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.demo import world
from lib_addift.diffusion.latents import encode_pair
from lib_addift.errors import TrainingError
from lib_addift.training.loop import train, train_one
from lib_addift.training.optimizer import rate_at
from tests.support.fake_host import FakeHost
from tests.support.training import make_state, pair_of, run

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))


@pytest.mark.parametrize("directions", ["alternate", "both"])
def test_swapping_pictures_and_first_direction_negates_lora_up_exactly(directions: str) -> None:
    """Only what is antisymmetric in the pair is learnt."""
    common = {"directions": directions, "max_train_steps": 7, "learning_rate": 1e-3}
    straight, _ = run(TrainConfig.create("action", **common, first_direction="forward"))
    swapped, _ = run(TrainConfig.create("action", **common, first_direction="reverse"), swapped=True)
    for name, layer in straight.layers.items():
        other = swapped.layers[name]
        assert layer.lora_up.abs().sum() > 0
        assert torch.equal(layer.lora_up, -other.lora_up), name
        assert torch.equal(layer.lora_down, other.lora_down), name


@pytest.mark.slow
def test_learning_lowers_the_loss() -> None:
    config = TrainConfig.create(
        "action", max_train_steps=200, timestep_bands=1, min_timestep=700, learning_rate=1e-3, batch_size=4
    )
    _, reports = run(config)
    assert np.mean([r.loss for r in reports[-20:]]) < 0.5 * np.mean([r.loss for r in reports[:20]])


def test_same_seed_same_bytes() -> None:
    config = TrainConfig.create("action", max_train_steps=5)
    first, second = (run(config)[0].tensors() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_closing_the_iterator_stops_and_leaves_the_model_alone() -> None:
    host, config = FakeHost(), TrainConfig.create("action", max_train_steps=50)
    before = {key: value.clone() for key, value in host.unet.state_dict().items()}
    pair = encode_pair(host, ImagePair(ORIGINAL, TARGET, None), config)
    state = make_state(host, [pair], config)
    calls = host.calls
    steps = train_one(host, state)
    assert [next(steps).step for _ in range(3)] == [1, 2, 3]
    steps.close()
    assert host.calls == calls + 1 + 3, "all references at once, then the student, once a step"
    assert all(torch.equal(before[key], value) for key, value in host.unet.state_dict().items())
    assert not any(module._forward_hooks for module in host.unet.modules())


# Several at once, several pairs, going on.


@pytest.mark.parametrize(("optimizer", "tolerance"), [("SGD", 1e-4), ("AdamW", 1e-2)])
def test_several_states_at_once_learn_what_each_learns_alone(optimizer: str, tolerance: float) -> None:
    """To rounding: AdamW's first steps take the sign of gradients, of tiny ones too."""
    host = FakeHost()
    configs = [
        TrainConfig.create("action", max_train_steps=steps, learning_rate=1e-3, optimizer=optimizer, **others)
        for steps, others in (
            (6, {"seed": 1}),
            (9, {"seed": 2, "directions": "alternate", "alpha": 2.0}),
            (6, {"seed": 3, "batch_size": 2, "loss": "huber"}),
        )
    ]
    pairs = [[pair_of(host, config, n)] for n, config in enumerate(configs)]
    alone = [make_state(host, pair, config) for pair, config in zip(pairs, configs, strict=True)]
    for state in alone:
        list(train_one(host, state))
    together = [make_state(host, pair, config) for pair, config in zip(pairs, configs, strict=True)]
    calls = host.calls
    rounds = list(train(host, together))
    assert host.calls == calls + 4 + 9, (
        "references of 12, 9 and 24 turns, 16 in a pass; then one pass a step, for all of them"
    )
    assert [len(reports) for reports in rounds] == [3] * 6 + [1] * 3
    for one, other in zip(alone, together, strict=True):
        for name, layer in one.network.layers.items():
            theirs = other.network.layers[name]
            assert layer.lora_up.any()
            assert (theirs.lora_up - layer.lora_up).norm() <= tolerance * layer.lora_up.norm()
            assert (theirs.lora_down - layer.lora_down).norm() <= tolerance * layer.lora_down.norm()
    assert not any(module._forward_hooks for module in host.unet.modules())


def test_one_that_fails_drops_out_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    host, config = FakeHost(), TrainConfig.create("action", max_train_steps=15)
    good, bad = (make_state(host, [pair_of(host, config, seed)], config) for seed in (1, 2))
    target = bad.target
    monkeypatch.setattr(bad, "target", lambda sample: target(sample) * float("nan"))
    rounds = list(train(host, [good, bad]))
    assert len(rounds) == 15
    assert [isinstance(reports.get(bad), TrainingError) for reports in rounds] == [False] * 9 + [True] + [False] * 5
    assert rounds[-1].keys() == {good}
    assert all(layer.lora_up.isfinite().all() and layer.lora_up.any() for layer in good.network.layers.values())


def test_pairs_of_different_sizes_and_weights_share_a_step() -> None:
    """Two visits a step, of pictures of two sizes: the mean of the weighted losses, whatever goes in which pass."""
    host, config = FakeHost(), TrainConfig.create("action", max_train_steps=1, batch_size=2)
    pairs = [pair_of(host, config, 1), pair_of(host, config, 2, size=128, weight=3.0)]
    mixed = next(train_one(host, make_state(host, pairs, config)))
    state = make_state(host, pairs, config)
    single = []
    for number, pair in enumerate(pairs):
        samples = tuple(sample for sample in state.samples if sample.pair == number)
        other = make_state(host, pairs, config)
        plan = dataclasses.replace(other.plans[0], steps=(samples,))
        other.stage = dataclasses.replace(other.stage, plan=plan)
        single.append(next(train_one(host, other)).loss)
        assert len(samples) == 2, pair.weight
    assert mixed.loss == pytest.approx((single[0] + single[1]) / 2, rel=1e-5)
    plain = make_state(host, [pairs[0], pair_of(host, config, 2, size=128)], config)
    unweighted = next(train_one(host, plain)).loss
    assert mixed.loss == pytest.approx((single[0] + 3 * (2 * unweighted - single[0])) / 2, rel=1e-4)


def test_rates_follow_their_schedule() -> None:
    cosine = TrainConfig.create("action", max_train_steps=100, lr_schedule="cosine", lr_end_ratio=0.1)
    assert rate_at(0, cosine) == 1.0
    assert rate_at(50, cosine) == pytest.approx(0.55)
    assert rate_at(100, cosine) == pytest.approx(0.1)
    linear = TrainConfig.create(
        "action", max_train_steps=110, lr_schedule="linear", lr_warmup_steps=10, lr_end_ratio=0.0
    )
    assert rate_at(0, linear) == pytest.approx(1 / 11)
    assert rate_at(60, linear) == pytest.approx(0.5)
