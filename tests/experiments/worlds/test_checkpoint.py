"""The avatars' checkpoint draws what it is told."""

from __future__ import annotations

import pytest

from lib_addift.experiments.lab.avatars import CHECKPOINT
from lib_addift.experiments.worlds.data import WORLDS
from lib_addift.experiments.worlds.judge import read_prompted


@pytest.mark.slow
@pytest.mark.long
def test_every_attribute_follows_the_prompt() -> None:
    hits, _ = read_prompted(CHECKPOINT, WORLDS["avatars"], count=40, seed=77, steps=12)
    assert min(hits.values()) >= 0.95, hits


def test_it_is_small_enough_for_a_repository() -> None:
    assert CHECKPOINT.stat().st_size <= 16 * 2**20
