"""The most memory that was in use at once."""

from __future__ import annotations

import torch

from lib_addift.experiments.bench.memory import Peak

CPU = torch.device("cpu")


def test_the_peak_is_what_was_there_at_once() -> None:
    with Peak(CPU) as peak:
        for _ in range(3):
            block = torch.ones(2**24)  # 64 MB
            torch.ones(1000).sort()
            del block
    assert 40e6 < peak.bytes < 150e6
