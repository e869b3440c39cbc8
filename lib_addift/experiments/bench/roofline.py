"""The roofline of a training step: its operations and the bytes of weights it reads, over what the device can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Device:
    """A device's speed, measured by a large matrix product in the model's dtype and by a large copy."""

    operations: float  # multiplications and additions / s
    bandwidth: float  # bytes / s, read and written

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype) -> Device:
        size = 8192 if device.type == "cuda" else 1536
        matrix = torch.randn(size, size, device=device).to(dtype)
        block = torch.empty(2**28, dtype=torch.uint8, device=device)
        target = torch.empty_like(block)
        product = _seconds(lambda: matrix @ matrix, device)
        copy = _seconds(lambda: target.copy_(block), device)
        return cls(2 * size**3 / product, 2 * block.numel() / copy)


@dataclass(frozen=True)
class Work:
    """The operations and memory reads of some training steps."""

    operations: float
    weight_bytes: float  # the UNet's weights, each time they are read: forward, and backward where it goes

    def roofline(self, device: Device) -> float:
        """The least time in seconds that this takes on the device. Source: Williams et al. 2009, the roofline model."""
        return max(self.operations / device.operations, self.weight_bytes / device.bandwidth)

    def __sub__(self, other: Work) -> Work:
        return Work(self.operations - other.operations, self.weight_bytes - other.weight_bytes)

    def __truediv__(self, count: float) -> Work:
        return Work(self.operations / count, self.weight_bytes / count)


def count_work(unet: nn.Module, train: Callable[[], None]) -> Work:
    """The work of `train`; a module's own weights count as read once for each of its passes, forward and backward."""
    read = 0

    def note(module: nn.Module, _args: object, output: object) -> None:
        nonlocal read
        own = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters(recurse=False))
        needs_backward = isinstance(output, torch.Tensor) and output.requires_grad
        read += own * (2 if needs_backward else 1)

    handles = [
        module.register_forward_hook(note)
        for module in unet.modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        with FlopCounterMode(display=False) as counter:
            train()
    finally:
        for handle in handles:
            handle.remove()
    return Work(float(counter.get_total_flops()), float(read))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The shortest of some runs, without the first."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        begun = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])
