"""The loop of every stage of a training: seeded step by step, and resumed from a file after an interruption."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lib_addift.files import replace_files


class SavedState:
    """A file with the state of each stage, by name; written at most every `every_s` seconds. No file, no memory."""

    def __init__(self, path: Path | None, every_s: float = 300.0) -> None:
        self._path, self._every_s, self._written = path, every_s, time.monotonic()
        self._stages: dict[str, Any] = {}
        if path is not None and path.is_file():
            self._stages = torch.load(path, weights_only=True)

    def __contains__(self, stage: str) -> bool:
        return stage in self._stages

    def __getitem__(self, stage: str) -> dict[str, Any]:
        result: dict[str, Any] = self._stages.get(stage, {"step": 0})
        return result

    def is_due(self) -> bool:
        return time.monotonic() - self._written > self._every_s

    def write(self, stage: str, state: dict[str, Any]) -> None:
        """Keep a stage's state; the file is replaced as a whole, so that an interruption leaves the older one."""
        self._stages[stage] = state
        if self._path is not None:
            buffer = io.BytesIO()
            torch.save(self._stages, buffer)
            replace_files({self._path: buffer.getvalue()})
        self._written = time.monotonic()


def run_stage(
    stage: str, parts: Mapping[str, Any], train_step: Callable[[int], str], saved: SavedState, *, steps: int, seed: int
) -> None:
    """Call `train_step(step)` for the steps that `saved` has not done; it returns what to print, or an empty text.

    Every step draws its random numbers from its own seed, so that a resumed run repeats an uninterrupted one.
    `parts` (models, optimizers) have `state_dict` and `load_state_dict`.
    """
    state = saved[stage]
    for name, part in parts.items() if state["step"] else ():
        part.load_state_dict(state[name])
    start = time.monotonic()

    def keep(step: int) -> None:
        saved.write(stage, {"step": step, **{name: part.state_dict() for name, part in parts.items()}})

    for step in range(state["step"], steps):
        torch.manual_seed(seed * 1_000_003 + step)
        line = train_step(step)
        if line:
            print(f"{stage} {step}/{steps} {line} {time.monotonic() - start:.0f} s", flush=True)
        if saved.is_due() or step == steps - 1:
            keep(step + 1)


def rate_share(step: int, steps: int, warmup: int = 100) -> float:
    """The share of the learning rate at a step: it rises linearly, stays, and falls to 0.001 in the last third."""
    rest = (steps - step) / max(1, steps / 3)
    return min(1.0, (step + 1) / warmup, rest + 1e-3)


def optimizer_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """One step at the learning rate `rate`, with gradients clipped to norm 1."""
    (group,) = optimizer.param_groups
    group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
