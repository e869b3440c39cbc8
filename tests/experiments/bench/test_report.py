"""The bench's table and figures, from made-up times."""

from __future__ import annotations

from lib_addift.experiments.bench.contenders import OURS, RIVAL
from lib_addift.experiments.bench.report import joint_training_table, speed_table
from lib_addift.experiments.bench.roofline import Device, Work
from lib_addift.experiments.bench.run import JointTraining, Measured, Times


def test_a_row_tells_speed_beside_the_rival_and_beside_the_roofline() -> None:
    device = Device(operations=100.0, bandwidth=10.0)
    rival = Measured(RIVAL, Work(200.0, 1.0), [Times(1.0, 40.0, None)], peak_bytes=3_000_000)
    ours = Measured(OURS, Work(100.0, 1.0), [Times(0.5, 20.0, 25.0)], peak_bytes=2_000_000)
    _, _, *rows = speed_table([rival, ours], device, steps=10).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")][1:] for row in rows]
    assert cells == [
        ["4", "1.00", "2", "50%", "1", "40", "-", "3"],
        ["2", "2.00", "1", "50%", "0.5", "20", "25", "2"],
    ]


def test_a_row_for_each_number_of_loras_at_once() -> None:
    table = joint_training_table([JointTraining(4, alone=2.0, together=4.0)])
    assert table.splitlines()[-1] == "| 4 | 4 | 2 | 2.00 |"
