"""The bench's table and JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

import torch

from lib_addift.diffusion.host import Host
from lib_addift.experiments.bench.contenders import RIVAL
from lib_addift.experiments.bench.roofline import Device
from lib_addift.experiments.bench.run import BenchPlan, JointTraining, Measured
from lib_addift.experiments.bench.scaling import Scaled


def heading(host: Host, size: str, plan: BenchPlan, device: Device) -> str:
    """Device, model and run lengths in one line."""
    dtype = str(next(host.unet.parameters()).dtype).removeprefix("torch.")
    return (
        f"{_device_name(host)}; torch {torch.__version__}; {size} model in {dtype}, {plan.pixels} px, "
        f"{plan.steps} steps, medians of {plan.rounds} rounds. "
        f"The device: {device.operations / 1e12:.3g} Tera-operations/s in a matrix product, "
        f"{device.bandwidth / 1e9:.3g} GB/s in a copy."
    )


def speed_table(found: Sequence[Measured], device: Device, steps: int) -> str:
    """One row for each contender, Markdown."""
    rival = next(each for each in found if each.contender is RIVAL)
    lines = [
        "| who | s a step | times the rival | roofline, s a step | share of roofline | s to first step "
        "| s to last step | s until all is done | peak beside the model, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        last, least = _number(each, "last_step"), each.work.roofline(device)
        ratio = _number(rival, "last_step") / last
        done = each.median("done")
        lines.append(
            f"| {each.contender.words} | {last / steps:.4g} | {ratio:.2f} | {least:.3g} | {least * steps / last:.0%} "
            f"| {_number(each, 'first_step'):.3g} | {last:.3g} | {'-' if done is None else f'{done:.3g}'} "
            f"| {each.peak_bytes / 1e6:.0f} |"
        )
    return "\n".join(lines)


def joint_training_table(found: Sequence[JointTraining]) -> str:
    lines = ["| LoRAs at once | s of training | one alone, s | times the samples/s |", "|---|---|---|---|"]
    lines += [f"| {each.count} | {each.together:.3g} | {each.alone:.3g} | {each.gain:.2f} |" for each in found]
    return "\n".join(lines)


def scaling_table(found: Sequence[Scaled]) -> str:
    lines = [
        "| steps | pairs | s to read and encode | s of training | s a step | peak beside the model, MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.steps} | {each.pairs} | {each.prepare:.3g} | {each.train:.3g} | {each.train / each.steps:.3g} "
        f"| {each.peak_bytes / 1e6:.0f} |"
        for each in found
    ]
    return "\n".join(lines)


def figures(
    found: Sequence[Measured], together: Sequence[JointTraining], scaled: Sequence[Scaled], device: Device, steps: int
) -> dict[str, Any]:
    """All figures as JSON holds them."""
    return {
        "device": vars(device),
        "steps": steps,
        "contenders": {
            each.contender.name: {
                "runs": [vars(times) for times in each.runs],
                "operations_a_step": each.work.operations,
                "weight_bytes_a_step": each.work.weight_bytes,
                "turns_a_step": each.contender.turns(1),
                "peak_bytes": each.peak_bytes,
            }
            for each in found
        },
        "together": [vars(each) | {"gain": each.gain} for each in together],
        "scaling": [vars(each) for each in scaled],
    }


def _number(measured: Measured, key: str) -> float:
    value = measured.median(key)
    assert value is not None
    return value


def _device_name(host: Host) -> str:
    if host.device.type == "cuda":
        return torch.cuda.get_device_name(host.device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
