"""Hosts and results that several files of tests use."""

from __future__ import annotations

import pytest

from lib_addift.demo.run import CHECKPOINT
from lib_addift.experiments.lab import runner
from lib_addift.experiments.lab.cell import Cell
from lib_addift.experiments.lab.runner import Done
from lib_addift.experiments.lab.summary import Summary
from lib_addift.experiments.lab.together import Couple
from lib_addift.hosts.standalone import StandaloneHost
from tests.support.fake_host import FakeHost
from tests.support.lab import done


@pytest.fixture(scope="module")
def real_host() -> StandaloneHost:
    return StandaloneHost(CHECKPOINT, device="cpu")


@pytest.fixture
def fake_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells without Stable Diffusion: pictures mean nothing, but all is drawn, measured and kept."""
    monkeypatch.setattr(runner, "_host", FakeHost)


@pytest.fixture
def summary() -> Summary:
    return Summary(
        [
            done("eyes", "published", 1, hits=0.5, flips=0.0, steps=30),
            done("eyes", "published", 2, hits=0.6, flips=0.0, steps=30),
            done("eyes", "ours", 1, flips=0.02, steps_to_90=20, seconds_to_90=4.25, contrast=0.9, sharpness=0.8),
            done("eyes", "ours", 2, flips=0.04, contrast=0.7, sharpness=0.8),
            done("eyes", "no-mask", 1, flips=0.2, effects=[0, 0.2, 0.5, 1, 1.1, 1.2]),
            done("style", "ours", 1, hits=0.8),
            Done(
                Couple("eyes", "mouth", "ours", 1), {"first_alone": 1, "second_alone": 0.5, "product": 0.5, "both": 0.4}
            ),
            Done(Cell("style", "published", 1), {}, "nothing was learnt."),
        ]
    )
