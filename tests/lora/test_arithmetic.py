"""Sums of LoRAs and cuts to a rank, against whole matrices in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.lora.arithmetic import RankLimit, TensorSource, Term, compress, layer_tensors, resize, sum_loras
from tests.support.dense import dense, flat, layers_of
from tests.support.loras import CONV, LINEAR, POINT, SHAPES, TEXT, make, same, term

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Sums.


@pytest.mark.parametrize("dtypes", [("fp32", "fp32"), ("fp16", "bf16")])
def test_a_sum_of_different_ranks_alphas_and_layers_is_exact(dtypes: tuple[str, str]) -> None:
    one = make(1, rank=4, alpha=1.0, dtype=DTYPES[dtypes[0]])
    other = make(2, rank=2, alpha=None, layers={LINEAR: SHAPES[LINEAR], CONV: SHAPES[CONV]}, dtype=DTYPES[dtypes[1]])
    found = sum_loras([term(one, 0.7), term(other, -1.3)], RankLimit())
    assert layers_of(found.tensors) == sorted(SHAPES)
    assert found.ranks == {LINEAR: 6, CONV: 6, POINT: 4, TEXT: 4}

    def wanted(layer: str) -> np.ndarray:
        return 0.7 * dense(one, layer) + (-1.3 * dense(other, layer) if layer in layers_of(other) else 0)

    same(found.tensors, wanted)
    assert all(tensor.dtype is torch.float32 for tensor in found.tensors.values())
    assert all(found.tensors[f"{layer}.alpha"] > 0 for layer in SHAPES)


def test_one_lora_at_weight_1_stays_as_it_is_to_the_bit() -> None:
    one = make(3)
    found = sum_loras([term(one)], RankLimit()).tensors
    assert all(torch.equal(found[key], tensor) for key, tensor in one.items())


def test_a_sum_has_no_more_rank_than_its_layers() -> None:
    loras = [make(seed, rank=9) for seed in range(4)]  # 36 in all
    found = sum_loras([term(lora) for lora in loras], RankLimit())
    assert found.ranks == {layer: min(shape[0], int(np.prod(shape[1:]))) for layer, shape in SHAPES.items()}
    same(found.tensors, lambda layer: sum(dense(lora, layer) for lora in loras))


def test_weights_of_0_and_layers_of_zeros_are_left_out() -> None:
    one, other = make(1), make(2)
    one[f"{CONV}.lora_up.weight"].zero_()
    other[f"{TEXT}.alpha"] = torch.tensor(0.0)
    found = sum_loras([term(one), term(other, 0.0)], RankLimit(rank=2))
    assert layers_of(found.tensors) == sorted({LINEAR, POINT, TEXT})
    found = sum_loras([Term(TensorSource(other), lambda layer: float(layer in (TEXT, POINT)))], RankLimit())
    assert layers_of(found.tensors) == [POINT]
    with pytest.raises(LoraFileError, match="nothing is left"):
        sum_loras([term(one, 0.0)], RankLimit())


def test_a_1x1_convolution_stored_as_a_matrix_adds_to_one_stored_as_a_convolution() -> None:
    one, other = make(1, layers={POINT: SHAPES[POINT]}), make(2, layers={POINT: SHAPES[POINT][:2]})
    found = sum_loras([term(other), term(one)], RankLimit()).tensors
    assert dense(found, POINT).shape == SHAPES[POINT]
    assert np.allclose(flat(dense(found, POINT)), flat(dense(one, POINT)) + dense(other, POINT), rtol=1e-6, atol=1e-5)


def test_layers_of_different_models_are_not_added() -> None:
    one, other = make(1, layers={LINEAR: (24, 20)}), make(2, layers={LINEAR: (24, 21)})
    with pytest.raises(LoraFileError, match="they are for different models"):
        sum_loras([term(one), term(other)], RankLimit())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000), ranks=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    weight=st.floats(-4, 4, allow_subnormal=False).filter(lambda value: abs(value) > 1e-3),
)  # fmt: skip
def test_scaling_a_sum_is_summing_scaled_loras(seed: int, ranks: list[int], weight: float) -> None:
    loras = [make(seed + index, rank=rank) for index, rank in enumerate(ranks)]
    first = sum_loras([term(lora) for lora in loras], RankLimit()).tensors
    scaled = sum_loras([term(first, weight)], RankLimit()).tensors
    together = sum_loras([term(lora, weight) for lora in loras], RankLimit()).tensors
    same(scaled, lambda layer: dense(together, layer), 2e-5)


# Truncation.


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_truncation_to_a_rank_is_the_best_approximation(rank: int, weight: float) -> None:
    lora = make(5, rank=6)
    found = sum_loras([term(lora, weight)], RankLimit(rank=rank))
    kept = total = 0.0
    for layer in SHAPES:
        matrix = weight * flat(dense(lora, layer))
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        best = left[:, :rank] * values[:rank] @ right[:rank]
        assert np.abs(flat(dense(found.tensors, layer)) - best).max() < 1e-5 * values[0]
        kept, total = kept + (values[:rank] ** 2).sum(), total + (values**2).sum()
        assert found.ranks[layer] == rank
    assert found.kept == pytest.approx(kept / total, abs=1e-9)


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.99])
def test_truncation_to_an_energy_keeps_no_more_than_it_needs(energy: float) -> None:
    lora = make(6, rank=8)
    found = sum_loras([term(lora)], RankLimit(energy=energy))
    for layer in SHAPES:
        energies = np.linalg.svd(flat(dense(lora, layer)), compute_uv=False) ** 2
        wanted = int(np.argmax(np.cumsum(energies) >= energy * energies.sum())) + 1
        assert found.ranks[layer] == wanted
    assert energy <= found.kept < 1
    both = sum_loras([term(lora)], RankLimit(rank=2, energy=energy))
    assert both.ranks == {layer: min(2, rank) for layer, rank in found.ranks.items()}


def test_truncation_finds_the_true_rank() -> None:
    lora = make(7, rank=2)
    doubled = sum_loras([term(lora), term(lora)], RankLimit()).tensors
    assert {tensor.shape[0] for key, tensor in doubled.items() if "lora_down" in key} == {4}
    found = resize(doubled, rank=10)
    assert {tensor.shape[0] for key, tensor in found.items() if "lora_down" in key} == {2}
    same(found, lambda layer: 2 * dense(lora, layer), 1e-5)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (10, 6, 3, 3)])
def test_compressing_a_whole_matrix_is_its_svd(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    left, values, right = np.linalg.svd(flat(matrix.double().numpy()), full_matrices=False)
    for rank in (1, 4, 0):
        found = compress(matrix, RankLimit(rank=rank))
        count = rank or len(values)
        assert found.layer is not None
        assert found.layer.rank == count
        best = left[:, :count] * values[:count] @ right[:count]
        assert np.abs(flat(dense(layer_tensors("x", found.layer), "x")) - best).max() < 1e-5
        assert found.energy / found.total == pytest.approx((values[:count] ** 2).sum() / (values**2).sum(), abs=1e-9)
    low = torch.randn(shape[0], 2) @ torch.randn(2, matrix[0].numel())
    assert compress(low, RankLimit(rank=8)).layer.rank == 2  # type: ignore[union-attr]
    assert compress(torch.zeros(shape), RankLimit(rank=8)).layer is None


@pytest.mark.parametrize(
    ("rank", "energy"), [(-1, 1.0), (2.5, 1.0), (True, 1.0), (5000, 1.0), (4, 0.0), (4, 1.1), (4, float("nan"))]
)
def test_an_impossible_size_is_refused(rank: Any, energy: float) -> None:
    with pytest.raises(ConfigError, match="must be a"):
        RankLimit(rank, energy)
