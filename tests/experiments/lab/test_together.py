"""Two LoRAs at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.experiments.lab.together import Couple
from tests.support.lab import plan, run


@pytest.mark.slow
def test_couples_follow_the_cells_whose_loras_they_use(fake_host: None, tmp_path: Path) -> None:
    done, _ = run(plan("words", "published", tasks=("eyes", "mouth", "hair")), tmp_path)
    couples = [each for each in done if isinstance(each.work, Couple)]
    assert [each.work.name for each in couples] == ["eyes+mouth_published_1"]
    figures = couples[0].figures
    assert figures["product"] == pytest.approx(figures["first_alone"] * figures["second_alone"], abs=1e-3)
