"""Work counted on a model that runs, and the least time that a device needs for it."""

from __future__ import annotations

import torch
from torch import nn

from lib_addift.experiments.bench.roofline import Device, Work, count_work

CPU = torch.device("cpu")


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
