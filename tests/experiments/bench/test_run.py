"""Figures of timed runs."""

from __future__ import annotations

from lib_addift.experiments.bench.contenders import OURS, SAME
from lib_addift.experiments.bench.roofline import Work
from lib_addift.experiments.bench.run import JointTraining, Measured, Times


def test_medians_and_gains() -> None:
    runs = [Times(1.0, last, None) for last in (3.0, 9.0, 4.0)]
    measured = Measured(OURS, Work(1.0, 1.0), runs)
    assert (measured.median("last_step"), measured.median("done")) == (4.0, None)
    assert JointTraining(4, alone=2.0, together=4.0).gain == 2.0
    assert (OURS.turns(30), SAME.turns(30)) == (60, 30)
