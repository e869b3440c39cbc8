"""What the bench compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.data.pairs import PairSource
from lib_addift.experiments.bench.contenders import CONTENDERS, RIVAL, SAME, Contender
from tests.support.fake_host import FakeHost


def test_the_same_arithmetic_has_the_rivals_settings() -> None:
    assert SAME.config(steps=7, pixels=64) == RIVAL.config(steps=7, pixels=64)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda each: each.name)
def test_a_contender_yields_every_step(contender: Contender, pair_files: tuple[Path, Path], tmp_path: Path) -> None:
    host = FakeHost(tmp_path / "Lora")
    steps = list(contender.run(host, PairSource(*pair_files), contender.config(steps=3, pixels=64)))
    assert steps == [1, 2, 3]
    assert host.lora_names() == ([] if contender is RIVAL else ["bench"])
