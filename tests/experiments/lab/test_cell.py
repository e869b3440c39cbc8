"""One training and its measures, with every variant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_addift.evaluation.verdict import Level
from lib_addift.experiments.lab import cell as cell_module
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.cell import Cell, said_good, train_cells
from lib_addift.experiments.lab.faces import FACES
from lib_addift.experiments.lab.variants import VARIANTS
from lib_addift.training.events import Result
from tests.support.fake_host import FakeHost
from tests.support.lab import SMALL, plan, run


@pytest.mark.long
@pytest.mark.slow
def test_every_variant_runs(fake_host: None, tmp_path: Path) -> None:
    done, _ = run(plan(*VARIANTS), tmp_path)
    assert [each.cell.variant for each in done] == list(VARIANTS)
    assert [each.error for each in done if each.error] == []
    for each in done:
        keys = set(each.figures)
        assert {"base_hits", "hits", "reverse_hits", "flips", "short_flips", "words_short_flips"} <= keys
        assert {"recovery", "steps", "said_good", "empty_hits"} <= keys or each.cell.way.in_words


@pytest.mark.slow
def test_seeds_are_trained_in_one_pass_and_long_methods_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    train_runs = cell_module.train_runs
    monkeypatch.setattr(cell_module, "train_runs", lambda runs: sizes.append(len(runs)) or train_runs(runs))
    few = {"max_train_steps": 1, "first_train_steps": 1}
    bench = Bench(FACES, FakeHost(tmp_path), SMALL, tmp_path)
    for name, expected in (("ours", [3]), ("copier", [1, 1, 1])):
        sizes.clear()
        way = VARIANTS[name]
        monkeypatch.setitem(VARIANTS, name, replace(way, settings={**way.settings, **few}))
        cells = [Cell("faces", "eyes", name, seed) for seed in (1, 2, 3)]
        ends = train_cells(bench, cells)
        assert [ends[cell].path.stem for cell in cells if isinstance(ends[cell], Result)] == [c.name for c in cells]
        assert sizes == expected


@pytest.mark.parametrize("level", list(Level))
def test_a_result_is_said_to_be_good_or_not(level: Level) -> None:
    told = SimpleNamespace(level=level)
    assert said_good(told) is (level.value == "good")  # type: ignore[arg-type]
