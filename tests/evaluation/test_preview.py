"""The preview strip: its size, and what its pictures are drawn with."""

from __future__ import annotations

import numpy as np
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.evaluation.preview import WEIGHTS, labelled_row, preview_strip
from tests.support.fake_host import FakeHost
from tests.support.training import make_network, pair_of


def test_labels_stand_under_pictures_that_are_enlarged_by_whole_factors() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3)).astype(np.uint8)
    row = np.asarray(labelled_row(pictures, ["-1", "0", "1"]))
    assert row.shape == (2 * 40 + 14, 3 * 2 * 50, 3), "twice the size, as 128 px is less than three times 50"
    np.testing.assert_array_equal(row[:80:2], np.concatenate(pictures, axis=1).repeat(2, axis=1))
    assert row[80:].min() < 128, "there is a text"


def test_the_strip_is_drawn_at_multiples_of_the_weight() -> None:
    """At weight 2, the pictures for 0.5 and -0.5 are those for 1 and -1 at weight 1; that for 0 is the model alone."""
    host, config = FakeHost(), TrainConfig.create("action", sampling_steps=2, rank=2, seed=3)
    network, pair = make_network(host, config), pair_of(host, config, seed=1)
    generator = torch.Generator().manual_seed(0)
    for layer in network.layers.values():
        layer.lora_up.data.normal_(0, 0.1, generator=generator)
    with network.attach():
        once, twice = (
            np.split(np.asarray(preview_strip(host, network, pair, config, weight))[:128], len(WEIGHTS), axis=1)
            for weight in (1.0, 2.0)
        )
    for half, whole in ((1, 0), (2, 2), (3, 4)):
        assert np.abs(twice[half].astype(int) - once[whole]).max() <= 1
    assert not np.array_equal(once[2], once[4])
