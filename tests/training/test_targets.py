"""The frozen model's predictions, and the noise of a sample."""

from __future__ import annotations

import numpy as np
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.demo import world
from lib_addift.diffusion.latents import LatentPair, encode_pair
from lib_addift.training.plan import Sample, make_plan
from lib_addift.training.targets import TeacherPredictions, sample_noise
from tests.support.fake_host import FakeHost

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
