"""The probe still finds what it breaks: this much needs no running WebUI."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.training.loop import train_one
from tests.support.fake_host import FakeHost
from tests.support.runs import finish
from tests.support.training import make_state, pair_of

PROBE = Path(__file__).with_name("probe") / "scripts" / "addift_probe.py"


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The probe as a WebUI loads it."""
    parts = {name: ModuleType(f"modules.{name}") for name in ("call_queue", "script_callbacks", "shared")}
    vars(parts["script_callbacks"])["on_app_started"] = lambda _callback: None
    webui = ModuleType("modules")
    vars(webui).update(parts)
    for module in (webui, *parts.values()):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("addift_probe", PROBE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train() -> int:
    """How many steps a run of four takes."""
    host, config = FakeHost(), TrainConfig.create(max_train_steps=4)
    return len(list(train_one(host, make_state(host, [pair_of(host, config, seed=0)], config))))


def test_the_probe_makes_one_run_fail_in_the_middle(probe: ModuleType) -> None:
    probe.fail("error", 3)
    try:
        with pytest.raises(RuntimeError, match="simulated failure"):
            train()
        assert train() == 4
    finally:
        probe.fail("none", 0)


def test_the_probe_takes_away_the_evaluation_and_brings_it_back(probe: ModuleType, tmp_path: Path) -> None:
    def curve() -> int:
        """How many weights the round trip of a run has tried."""
        run = finish(FakeHost(tmp_path), overwrite=True, new_pictures=0)
        return len(run.results[0].round_trip.curve)

    try:
        probe.evaluate(on=False)
        assert curve() == 0
    finally:
        probe.evaluate(on=True)
    assert curve() > 0
