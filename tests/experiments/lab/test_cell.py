"""One training and its measures, with every variant."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.experiments.lab.variants import VARIANTS
from tests.support.lab import plan, run


@pytest.mark.long
@pytest.mark.slow
def test_every_variant_runs(fake_host: None, tmp_path: Path) -> None:
    done, _ = run(plan(*VARIANTS), tmp_path)
    assert [each.work.variant for each in done] == list(VARIANTS)
    assert [each.error for each in done if each.error] == []
    for each in done:
        keys = set(each.figures)
        assert {"base_hits", "hits", "reverse_hits", "flips", "interference"} <= keys
        assert {"recovery", "steps", "seconds", "effects"} <= keys or VARIANTS[each.work.variant].in_words
