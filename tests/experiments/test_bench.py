"""The bench: that it counts what it says, on the tiny model. What is fast is for docs/performance.md, not for tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_addift.cli.main import main
from lib_addift.data.pairs import load_pair
from lib_addift.demo import world
from lib_addift.demo.run import TASKS
from lib_addift.experiments.bench.contenders import OURS, RIVAL, SAME
from lib_addift.experiments.bench.memory import Peak
from lib_addift.experiments.bench.report import scaling_table
from lib_addift.experiments.bench.rival import train_as_rival
from lib_addift.experiments.bench.roofline import Device, Work, count_work
from lib_addift.experiments.bench.run import JointTraining, Measured, Times
from lib_addift.experiments.bench.scaling import all_sizes, measure_scaling
from tests.support.fake_host import FakeHost

CPU = torch.device("cpu")


def test_the_bench_writes_its_table_and_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "--device", "cpu", "--steps", "2", "--rounds", "1", "--sets", "2", "--no-proof"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    page, figures = ((tmp_path / f"bench.{kind}").read_text(encoding="utf-8") for kind in ("md", "json"))
    assert page.strip() in capsys.readouterr().out
    found = json.loads(figures)
    assert list(found["contenders"]) == ["rival", "same", "ours"]
    for each in found["contenders"].values():
        (run,) = each["runs"]
        assert 0 < run["first_step"] < run["last_step"]
        assert run["done"] is None
        assert each["operations_a_step"] > 1e8
        assert 1e6 < each["peak_bytes"] < 1e9
    rival, same, ours = found["contenders"].values()
    assert [each["turns_a_step"] for each in (rival, same, ours)] == [1, 1, 2]
    assert same["weight_bytes_a_step"] < rival["weight_bytes_a_step"], "references go in batches"
    assert found["together"][0]["count"] == 2
    assert "tiny model in float32, 64 px, 2 steps" in page


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--steps", "1", "--steps 1"),
        ("--rounds", "0", "--rounds 0"),
        ("--pixels", "100", "--pixels 100"),
        ("--sets", "2,x", "--sets x"),
    ],
)
def test_wrong_numbers_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, named: str
) -> None:
    assert main(["bench", option, value, "--out", str(tmp_path / "out")]) == 1
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_rivals_loop_asks_the_model_twice_a_step_and_learns() -> None:
    host = FakeHost()
    config = RIVAL.config(steps=6, pixels=64)
    losses = list(train_as_rival(host, load_pair(*map(world.draw, TASKS["eyes"].faces()), config), config))
    assert (len(losses), host.calls) == (6, 12)
    assert all(loss > 0 for loss in losses)
    assert not any(module._forward_hooks for module in host.unet.modules())


def test_work_is_counted_on_modules_that_run() -> None:
    first, second = nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False)
    first.requires_grad_(False)
    model = nn.Sequential(first, second)

    def train() -> None:
        model(torch.randn(3, 8)).sum().backward()

    work = count_work(model, train)
    assert work.operations == 2 * 3 * (8 * 16 + 16 * 4 + 16 * 4), "forward, and the gradient of the second weight"
    assert work.weight_bytes == 4 * (8 * 16 + 2 * 16 * 4), "the first layer is read once, the second twice"
    assert not any(module._forward_hooks for module in model.modules())


def test_the_floor_is_what_takes_longest() -> None:
    device = Device(operations=100.0, bandwidth=10.0)
    assert Work(200.0, 10.0).roofline(device) == 2.0
    assert Work(100.0, 30.0).roofline(device) == 3.0
    assert (Work(9.0, 5.0) - Work(1.0, 1.0)) / 4 == Work(2.0, 1.0)
    measured = Device.measure(CPU, torch.float32)
    assert measured.operations > 1e9
    assert measured.bandwidth > 1e8


def test_the_peak_is_what_was_there_at_once() -> None:
    with Peak(CPU) as peak:
        for _ in range(3):
            block = torch.ones(2**24)  # 64 MB
            torch.ones(1000).sort()
            del block
    assert 40e6 < peak.bytes < 150e6


def test_scaling_times_runs_of_each_size(tmp_path: Path) -> None:
    found = list(measure_scaling(FakeHost(tmp_path), pixels=64, sizes=[(2, 1), (4, 5)]))
    assert [(each.steps, each.pairs) for each in found] == [(2, 1), (4, 5)]
    assert all(each.prepare > 0 and each.train > 0 and each.peak_bytes >= 0 for each in found)
    assert "| 4 | 5 |" in scaling_table(found)
    assert all_sizes() == [(30, 1), (300, 1), (3000, 1), (30, 10), (30, 100)]
    assert not list(tmp_path.iterdir())


def test_medians_and_gains() -> None:
    runs = [Times(1.0, last, None) for last in (3.0, 9.0, 4.0)]
    measured = Measured(OURS, Work(1.0, 1.0), runs)
    assert (measured.median("last_step"), measured.median("done")) == (4.0, None)
    assert JointTraining(4, alone=2.0, together=4.0).gain == 2.0
    assert (OURS.turns(30), SAME.turns(30)) == (60, 30)
