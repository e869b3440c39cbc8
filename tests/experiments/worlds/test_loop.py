"""The loop of a training's stages: what is kept, and that a resumed run repeats an uninterrupted one."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from lib_addift.experiments.worlds.loop import SavedState, optimizer_step, rate_share, run_stage

STEPS = 12


class InterruptedRunError(Exception):
    """What ends a run before its last step."""


def run(saved: SavedState, stop_at: int = STEPS) -> torch.Tensor:
    """Train a linear layer on noise; the weight at the end."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())

    def train_step(step: int) -> str:
        if step == stop_at:
            raise InterruptedRunError
        loss = (model(torch.randn(4, 3)) - 1).square().mean()
        optimizer_step(optimizer, loss, 1e-2 * rate_share(step, STEPS, warmup=2))
        return ""

    run_stage("line", {"model": model, "optimizer": optimizer}, train_step, saved, steps=STEPS, seed=3)
    return model.weight.detach().clone()


def test_a_resumed_run_repeats_an_uninterrupted_one(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptedRunError):
        run(SavedState(path, every_s=-1), stop_at=7)
    assert SavedState(path)["line"]["step"] == 7
    assert torch.equal(run(SavedState(path)), run(SavedState(None)))
    assert SavedState(path)["line"]["step"] == STEPS


def test_a_finished_stage_is_only_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    trained = run(SavedState(path))
    assert torch.equal(run(SavedState(path), stop_at=0), trained)


def test_the_state_is_kept_no_more_often_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptedRunError):
        run(SavedState(path, every_s=1000), stop_at=7)
    assert not path.exists()


def test_stages_do_not_overwrite_each_other(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    SavedState(path).write("first", {"step": 1})
    SavedState(path).write("second", {"step": 2})
    kept = SavedState(path)
    assert (kept["first"]["step"], kept["second"]["step"], kept["third"]["step"]) == (1, 2, 0)
    assert "first" in kept
    assert "third" not in kept


def test_the_rate_rises_stays_and_falls() -> None:
    shares = [rate_share(step, 300, warmup=10) for step in range(300)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[10:200] == [1.0] * 190
    assert shares[-1] == pytest.approx(0.01, abs=2e-3)
    assert all(after <= before for before, after in itertools.pairwise(shares[200:]))


def test_gradients_are_clipped() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    optimizer_step(optimizer, 100 * weight.sum(), rate=0.5)
    assert weight.norm().item() == pytest.approx(0.5, rel=1e-3)
