"""The rival's loop."""

from __future__ import annotations

import pytest

from lib_addift.data.pairs import load_pair
from lib_addift.demo import world
from lib_addift.demo.run import TASKS
from lib_addift.experiments.bench.contenders import RIVAL
from lib_addift.experiments.bench.rival import train_as_rival
from tests.support.fake_host import FakeHost


@pytest.mark.slow
def test_the_rivals_loop_asks_the_model_twice_a_step_and_learns() -> None:
    host = FakeHost()
    config = RIVAL.config(steps=6, pixels=64)
    losses = list(train_as_rival(host, load_pair(*map(world.draw, TASKS["eyes"].faces(1)), config), config))
    assert (len(losses), host.calls) == (6, 12)
    assert all(loss > 0 for loss in losses)
    assert not any(module._forward_hooks for module in host.unet.modules())
