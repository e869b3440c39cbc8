"""Hosts and results that several files of tests use."""

from __future__ import annotations

import pytest

from lib_addift.demo.run import CHECKPOINT
from lib_addift.experiments.lab import runner
from lib_addift.experiments.lab.cell import Cell
from lib_addift.experiments.lab.runner import Done
from lib_addift.experiments.lab.summary import Run
from lib_addift.hosts.standalone import StandaloneHost
from tests.support.fake_host import FakeHost
from tests.support.lab import done


@pytest.fixture(scope="module")
def real_host() -> StandaloneHost:
    return StandaloneHost(CHECKPOINT, device="cpu")


@pytest.fixture
def fake_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells without Stable Diffusion: pictures mean nothing, but all is drawn, measured and kept."""
    monkeypatch.setattr(runner, "_host", lambda _world, lora_dir: FakeHost(lora_dir))


@pytest.fixture
def runs() -> list[Run]:
    results = [
        done("eyes", "ours", 100, hits=1.0, flips=0.02, short_flips=0.5, words_short_flips=0.25),
        done("eyes", "ours", 101, hits=0.7, short_flips=0.7, words_short_flips=0.35),
        done("style", "ours", 100, hits=0.95, said_good=False),
        Done(Cell("faces", "style", "ours", 101), {}, "nothing was learnt."),
        done("eyes", "four-pairs", 100, flips=0.1),
        Done(Cell("faces", "eyes", "words", 100), {"hits": 1.0, "flips": 0.0}),
    ]
    return [Run.of(each, "test") for each in results]
