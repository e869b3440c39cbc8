"""Runs of several sizes, timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.experiments.bench.report import scaling_table
from lib_addift.experiments.bench.scaling import all_sizes, measure_scaling
from tests.support.fake_host import FakeHost


@pytest.mark.long
def test_scaling_times_runs_of_each_size(tmp_path: Path) -> None:
    found = list(measure_scaling(FakeHost(tmp_path), pixels=64, sizes=[(2, 1), (4, 5)]))
    assert [(each.steps, each.pairs) for each in found] == [(2, 1), (4, 5)]
    assert all(each.prepare > 0 and each.train > 0 and each.peak_bytes >= 0 for each in found)
    assert "| 4 | 5 |" in scaling_table(found)
    assert all_sizes() == [(30, 1), (300, 1), (3000, 1), (30, 10), (30, 100)]
    assert not list(tmp_path.iterdir())
