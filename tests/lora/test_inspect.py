"""Figures of a LoRA file against whole matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lib_addift.lora.inspect import block_figures, effective_rank, layer_figures, show
from tests.support.dense import dense, flat
from tests.support.loras import LINEAR, SHAPES, make, write


def test_norms_and_effective_ranks_against_whole_matrices(tmp_path: Path) -> None:
    lora = make(4, rank=5)
    path = write(tmp_path / "a.safetensors", lora)
    figures = {figure.name: figure for figure in layer_figures(path)}
    for layer in SHAPES:
        values = np.linalg.svd(flat(dense(lora, layer)), compute_uv=False)[:5]
        shares = values / values.sum()
        assert figures[layer].norm == pytest.approx(np.linalg.norm(dense(lora, layer)), rel=1e-9)
        assert figures[layer].effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
        assert figures[layer].rank == 5
    blocks = block_figures(list(figures.values()))
    assert [block.name for block in blocks] == ["TE", "IN04", "MID", "OUT03"]
    assert sum(block.share for block in blocks) == pytest.approx(1)
    assert effective_rank(torch.ones(4)) == pytest.approx(4)
    assert effective_rank(torch.zeros(4)) == 0
    text = show(path, each_layer=True)
    assert text.startswith("a.safetensors: LoRA of")
    assert all(layer in text for layer in SHAPES)
    assert LINEAR not in show(path)
