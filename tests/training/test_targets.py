"""The frozen model's predictions, and the noise of a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.demo import world
from lib_addift.diffusion.latents import LatentPair, encode_pair
from lib_addift.diffusion.memory import MicroBatching
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.training.loop import train_one
from lib_addift.training.plan import Sample, make_plan
from lib_addift.training.targets import TeacherPredictions, noisy_batch, sample_noise
from tests.support.fake_host import FakeHost
from tests.support.training import make_state, pair_of

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))


def predictions_of(host: FakeHost, pair: LatentPair, config: TrainConfig) -> dict[Sample, torch.Tensor]:
    plan, known = make_plan(config), {}
    teacher = TeacherPredictions(host, [pair], plan, config.reference_batch_size)
    for samples in plan:
        teacher.prefetch(samples)
        known |= {sample: teacher[sample] for sample in samples}
    return known


def test_references_do_not_depend_on_their_batch_size() -> None:
    host = FakeHost()
    config = TrainConfig.create("action", max_train_steps=7)
    pair = encode_pair(host, ImagePair(ORIGINAL, TARGET, None), config)
    large = predictions_of(host, pair, config)
    small = predictions_of(host, pair, TrainConfig.create("action", max_train_steps=7, reference_batch_size=1))
    assert large.keys() == small.keys()
    assert all(torch.allclose(large[sample], small[sample], atol=1e-6) for sample in large)


def test_noise_depends_on_the_turn_only() -> None:
    first, second = make_plan(TrainConfig.create("action", directions="alternate"))[:2]
    shape = torch.Size((1, 4, 8, 8))
    torch.manual_seed(1)
    noise = sample_noise(first[0], shape)
    torch.manual_seed(2)
    assert torch.equal(noise, sample_noise(second[0], shape))


# Sizes: how many samples a step has, how many go through the model in one pass, and how many lie in a window.

SIZES = (64, 128)  # px of two pairs
CRASHED = (  # settings that a step once spanned more windows than were kept under
    {"batch_size": 9, "resolution": 256},
    {"batch_size": 2, "reference_batch_size": 1},
    {"batch_size": 17, "directions": "forward"},
    pytest.param({"batch_size": 256}, marks=pytest.mark.slow),
)


@st.composite
def sizes(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "batch_size": draw(st.integers(1, 40)),
        "reference_batch_size": draw(st.integers(0, 20)),
        "directions": draw(st.sampled_from(["alternate", "both", "forward"])),
        "max_train_steps": draw(st.integers(1, 5)),
        "seed": draw(st.integers(0, 99)),
    }


def config_of(sizes: dict[str, Any]) -> TrainConfig:
    return TrainConfig.create("action", **{"max_train_steps": 3, "learning_rate": 1e-3, **sizes})


@pytest.mark.slow
@given(sizes())
@settings(max_examples=20, deadline=None)
def test_every_sample_of_a_step_has_the_prediction_that_it_has_alone(sizes: dict[str, Any]) -> None:
    host, config = FakeHost(), config_of(sizes)
    pairs = [pair_of(host, config, n, size=size) for n, size in enumerate(SIZES)]
    plan, schedule = make_plan(config, len(pairs)), NoiseSchedule(host.alphas_cumprod)
    teacher = TeacherPredictions(host, pairs, plan, config.reference_batch_size)
    for samples in plan:
        teacher.prefetch(samples)
        for sample in dict.fromkeys(samples):
            side = pairs[sample.pair].reference(sample.direction)
            alone = host.predict_noise(*noisy_batch([side], [sample], schedule))
            torch.testing.assert_close(teacher[sample], alone, rtol=1e-4, atol=1e-5)
        for shape in {pair.shape for pair in pairs}:
            needed = {teacher._window_of[each] for each in samples if pairs[each.pair].shape == shape}
            known = [window for window in teacher._known if window.shape == shape]
            assert len(known) <= max(2, len(needed) + 1), "what earlier steps needed does not pile up"


def losses(sizes: dict[str, Any], at_once: int = 0) -> list[float]:
    """Of the steps of a training on two pairs of different sizes; SGD, since Adam's first steps magnify rounding."""
    host, config = FakeHost(), config_of({**sizes, "optimizer": "SGD", "learning_rate": 0.1})
    pairs = [pair_of(host, config, n, size=size) for n, size in enumerate(SIZES)]
    with pytest.MonkeyPatch.context() as patch:
        if at_once:
            patch.setattr(
                "lib_addift.training.micro_batches.fitting", lambda *_given, **_: MicroBatching(at_once, False)
            )
        return [report.loss for report in train_one(host, make_state(host, pairs, config))]


@pytest.mark.parametrize("sizes", CRASHED)
def test_steps_that_span_many_windows_are_trained(sizes: dict[str, Any]) -> None:
    assert losses(sizes) == pytest.approx(losses({**sizes, "reference_batch_size": 4096}), rel=1e-4)


@pytest.mark.slow
@given(sizes(), st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_losses_depend_on_no_size_but_that_of_the_step(sizes: dict[str, Any], at_once: int) -> None:
    expected = losses({**sizes, "reference_batch_size": 4096})
    assert losses(sizes, at_once) == pytest.approx(expected, rel=1e-4)
