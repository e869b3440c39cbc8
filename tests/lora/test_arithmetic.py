"""Arithmetic on LoRAs against whole matrices in float64, and the files that come of it."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.lora import arithmetic
from lib_addift.lora import tools as lora_tools
from lib_addift.lora.arithmetic import RankLimit, TensorSource, Term, compress, layer_tensors, resize, sum_loras
from lib_addift.lora.blocks import OTHER, BlockWeights, block_of
from lib_addift.lora.extract import difference
from lib_addift.lora.factors import read_factors
from lib_addift.lora.file import describe, read_lora
from lib_addift.lora.inspect import block_figures, effective_rank, layer_figures, show
from lib_addift.lora.source import FileSource
from lib_addift.lora.tools import Output, Summand, average, merge, subtract
from tests.support.dense import dense, flat, layers_of
from tests.support.loras import CONV, LINEAR, POINT, SHAPES, TEXT, Tensors, make, same, write

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def term(tensors: Tensors, weight: float = 1.0) -> Term:
    return Term(TensorSource(tensors), lambda _layer: weight)


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
    weight=st.floats(-4, 4).filter(lambda value: abs(value) > 1e-3),
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


def test_factors_of_a_truncated_lora_fit_into_fp16(tmp_path: Path) -> None:
    for size in (1e-7, 1.0, 1e5):
        lora = make(8)
        for layer in SHAPES:
            lora[f"{layer}.alpha"] = torch.tensor(size)
        path = write(tmp_path / "a.safetensors", lora)
        made = lora_tools.resize_file(path, Output(tmp_path / "b.safetensors", overwrite=True), RankLimit(rank=2))
        best = resize(lora, rank=2)
        same(read_lora(made.path)[0], lambda layer, best=best: dense(best, layer), 5e-3)


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


# Other kinds of layers.


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed))


OTHERS: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
    "locon with a middle": (CONV, {
        "lora_up.weight": random(12, 3, 1, 1), "lora_mid.weight": random(3, 3, 3, 3),
        "lora_down.weight": random(3, 10, 1, 1), "alpha": torch.tensor(1.5),
    }),
    "loha": (LINEAR, {
        "hada_w1_a": random(24, 2), "hada_w1_b": random(2, 20), "hada_w2_a": random(24, 2, seed=1),
        "hada_w2_b": random(2, 20, seed=1), "alpha": torch.tensor(1.0),
    }),
    "loha of a high rank": (LINEAR, {
        "hada_w1_a": random(24, 6), "hada_w1_b": random(6, 20), "hada_w2_a": random(24, 6, seed=1),
        "hada_w2_b": random(6, 20, seed=1),
    }),
    "loha of a convolution": (CONV, {
        "hada_w1_a": random(3, 12), "hada_w1_b": random(3, 10), "hada_t1": random(3, 3, 3, 3),
        "hada_w2_a": random(3, 12, seed=1), "hada_w2_b": random(3, 10, seed=1), "hada_t2": random(3, 3, 3, 3, seed=1),
        "alpha": torch.tensor(1.0),
    }),
    "lokr": (LINEAR, {"lokr_w1": random(4, 5), "lokr_w2": random(6, 4), "alpha": torch.tensor(0.4)}),
    "lokr with a low rank": (LINEAR, {
        "lokr_w1": random(4, 2), "lokr_w2_a": random(6, 2), "lokr_w2_b": random(2, 10), "alpha": torch.tensor(1.0),
    }),
    "lokr with two low ranks": (LINEAR, {
        "lokr_w1_a": random(4, 1), "lokr_w1_b": random(1, 2), "lokr_w2_a": random(6, 1), "lokr_w2_b": random(1, 10),
        "alpha": torch.tensor(0.5),
    }),
    "lokr of a convolution": (CONV, {"lokr_w1": random(2, 2), "lokr_w2": random(6, 5, 3, 3)}),
    "lokr of a convolution with a core": (CONV, {
        "lokr_w1": random(2, 2), "lokr_t2": random(2, 2, 3, 3), "lokr_w2_a": random(2, 6), "lokr_w2_b": random(2, 5),
        "alpha": torch.tensor(1.0),
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(OTHERS))
def test_every_kind_of_layer_becomes_the_same_change_of_weight(kind: str) -> None:
    layer, own = OTHERS[kind]
    tensors = {f"{layer}.{key}": tensor for key, tensor in own.items()}
    plain = make(11, layers={layer: SHAPES[layer]})
    found = sum_loras([term(tensors, 2.0), term(plain)], RankLimit()).tensors
    same(found, lambda name: 2 * dense(tensors, name) + dense(plain, name), 1e-5)
    small = resize(tensors, rank=2)
    values = np.linalg.svd(flat(dense(tensors, layer)), compute_uv=False)
    error = np.linalg.norm(flat(dense(tensors, layer)) - flat(dense(small, layer)))
    assert error == pytest.approx(np.linalg.norm(values[2:]), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "rank"), [("loha", 4), ("loha of a high rank", 20), ("lokr", 16), ("lokr with two low ranks", 1)]
)
def test_other_kinds_have_no_more_factors_than_they_need(kind: str, rank: int) -> None:
    assert read_factors(*OTHERS[kind]).rank == rank


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_a_flattened_kernel_comes_back(kind: str) -> None:
    """LyCORIS writes the kernels of convolutions without a core flattened."""
    own = {
        "loha": {"hada_w1_a": random(12, 2), "hada_w1_b": random(2, 90), "hada_w2_a": random(12, 2, seed=1),
                 "hada_w2_b": random(2, 90, seed=1)},
        "lokr": {"lokr_w1": random(2, 2), "lokr_w2_a": random(6, 2), "lokr_w2_b": random(2, 45)},
    }[kind]  # fmt: skip
    tensors = {f"{CONV}.{key}": tensor for key, tensor in own.items()}
    found = sum_loras([term(tensors)], RankLimit()).tensors
    assert dense(found, CONV).shape == SHAPES[CONV]
    assert np.allclose(flat(dense(found, CONV)), flat(dense(tensors, CONV)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dora_scale": torch.ones(24, 1)}, "is a DoRA"),
        ({"lora_up.weight": torch.ones(24, 5)}, "does not fit together"),
        ({"lora_up.weight": None}, "no whole LoRA"),
        ({"lora_up.weight": torch.full((24, 3), torch.inf)}, "not finite"),
        ({"alpha": torch.tensor(torch.nan)}, "not finite"),
    ],
)
def test_a_broken_layer_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    tensors = make(1, layers={LINEAR: SHAPES[LINEAR]})
    tensors |= {f"{LINEAR}.{key}": value for key, value in change.items() if value is not None}
    for key, value in change.items():
        if value is None:
            del tensors[f"{LINEAR}.{key}"]
    with pytest.raises(LoraFileError, match=sentence) as raised:
        sum_loras([term(tensors)], RankLimit())
    assert str(raised.value).count(LINEAR) == 1
    assert "\n" not in str(raised.value)


def test_unknown_tensors_of_a_layer_are_refused() -> None:
    with pytest.raises(LoraFileError, match=r"oft_blocks, which is no whole LoRA"):
        read_factors(LINEAR, {"oft_blocks": torch.ones(2)})


# Blocks.


@pytest.mark.parametrize(
    ("layer", "block"),
    [
        ("lora_unet_conv_in", "IN00"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in", "IN01"),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", "IN03"),
        (LINEAR, "IN04"),
        ("lora_unet_down_blocks_2_attentions_1_proj_out", "IN08"),
        ("lora_unet_down_blocks_3_resnets_1_conv2", "IN11"),
        (POINT, "MID"),
        ("lora_unet_up_blocks_0_resnets_2_conv1", "OUT02"),
        ("lora_unet_up_blocks_0_upsamplers_0_conv", "OUT02"),
        (CONV, "OUT03"),
        ("lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2", "OUT11"),
        ("lora_unet_input_blocks_4_1_proj_in", "IN04"),
        ("lora_unet_output_blocks_11_0_out_layers_3", "OUT11"),
        ("lora_unet_middle_block_1_proj_in", "MID"),
        (TEXT, "TE"),
        ("lora_te2_text_model_encoder_layers_1_mlp_fc1", "TE"),
        ("lora_unet_time_embedding_linear_1", OTHER),
        ("lora_unet_conv_out", OTHER),
        ("lora_unet_down_blocks_0_attentions_7_proj_in", OTHER),
    ],
)
def test_layers_stand_in_the_blocks_of_lora_block_weight(layer: str, block: str) -> None:
    assert block_of(layer) == block


def test_weights_of_blocks() -> None:
    weights = BlockWeights.parse("OUT=2, out03=3, ALL=0.5, base = 0")
    assert [weights.of(layer) for layer in (LINEAR, CONV, POINT, TEXT)] == [0.5, 3, 0.5, 0]
    assert weights.of("lora_unet_up_blocks_2_attentions_0_proj_in") == 2
    assert str(weights) == "OUT=2, OUT03=3, ALL=0.5, TE=0"
    assert BlockWeights.parse(" ").of(LINEAR) == 1
    numbers = list(range(17))  # BASE, IN01, IN02, IN04, IN05, IN07, IN08, MID, OUT03 to OUT11
    of_17 = BlockWeights.parse(",".join(map(str, numbers)))
    assert [of_17.of(layer) for layer in (TEXT, LINEAR, POINT, CONV)] == [0, 3, 7, 8]
    of_26 = BlockWeights.parse(",".join(map(str, range(26))))
    assert [of_26.of(layer) for layer in (TEXT, LINEAR, POINT, CONV)] == [0, 5, 13, 17]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("UP=1", "names no block"), ("OUT12=1", "names no block"), ("OUT=x", "give a number"), ("1,2,3", "has 3 numbers"),
     ("OUT=nan", "give a number"), ("OUT=1,OUT=2", "two weights"), ("OUT=", "give a number")],
)  # fmt: skip
def test_bad_weights_of_blocks_are_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        BlockWeights.parse(text)


# Files.


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    metadata = {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "model.safetensors", "ss_seed": "1"}
    one = write(tmp_path / "one.safetensors", make(1, dtype=torch.float16), metadata)
    other = write(tmp_path / "other.safetensors", make(2, rank=5, alpha=None, dtype=torch.bfloat16), metadata)
    return one, other


def test_a_file_is_subtracted_and_says_how_it_was_made(files: tuple[Path, Path], tmp_path: Path) -> None:
    taken = Summand(files[1], 0.5, BlockWeights.parse("OUT=0"))
    made = subtract(Summand(files[0]), taken, Output(tmp_path / "less.safetensors", "fp32"))
    tensors, metadata = read_lora(made.path)
    one, other = (read_lora(file)[0] for file in files)
    same(tensors, lambda layer: dense(one, layer) - (0 if layer == CONV else 0.5 * dense(other, layer)))
    assert (made.layers, made.ranks, made.kept) == (4, (3, 8), 1.0)
    assert made.tag == "<lora:less:1>"
    report = json.loads(metadata["addift.report"])
    assert report["operation"] == "subtract"
    assert report["files"][1].startswith("other.safetensors (weight -0.5, OUT=0, sha256 ")
    assert metadata["modelspec.merged_from"] == "one.safetensors, other.safetensors"
    assert (metadata["ss_network_dim"], metadata["ss_output_name"]) == ("8", "less")
    assert metadata["ss_sd_model_name"] == "model.safetensors"
    assert "ss_seed" not in metadata, "of a training, and this was none"
    assert "Made by 'subtract' of one.safetensors, other.safetensors" in describe(made.path)


def test_what_files_do_not_agree_on_is_left_out(files: tuple[Path, Path], tmp_path: Path) -> None:
    third = write(tmp_path / "third.safetensors", make(3), {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "b"})
    made = merge([Summand(files[0]), Summand(third)], Output(tmp_path / "sum.safetensors"))
    metadata = read_lora(made.path)[1]
    assert metadata["ss_base_model_version"] == "sd_v1"
    assert "ss_sd_model_name" not in metadata


def test_the_mean_counts_what_a_file_lacks_as_zero(tmp_path: Path) -> None:
    loras = [make(1), make(2, layers={LINEAR: SHAPES[LINEAR]}), make(3, layers={LINEAR: SHAPES[LINEAR]})]
    paths = [write(tmp_path / f"{index}.safetensors", lora) for index, lora in enumerate(loras)]
    made = average(paths, Output(tmp_path / "mean.safetensors", "fp32"))
    tensors = read_lora(made.path)[0]

    def wanted(layer: str) -> np.ndarray:
        return sum(dense(lora, layer) for lora in loras if layer in layers_of(lora)) / 3

    same(tensors, wanted)


def test_one_lora_at_other_weights_of_its_blocks(files: tuple[Path, Path], tmp_path: Path) -> None:
    part = Summand(files[0], 2.0, BlockWeights.parse("ALL=0, MID=1, TE=-1"))
    made = merge([part], Output(tmp_path / "some.safetensors", "fp32"))
    tensors, one = read_lora(made.path)[0], read_lora(files[0])[0]
    assert layers_of(tensors) == sorted([POINT, TEXT])
    same(tensors, lambda layer: (2 if layer == POINT else -2) * dense(one, layer))


def test_the_same_work_gives_the_same_bytes(files: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        merge([Summand(file) for file in files], Output(tmp_path / name / "sum.safetensors"), RankLimit(rank=3))
    assert len({(tmp_path / name / "sum.safetensors").read_bytes() for name in ("a", "b")}) == 1


def test_a_file_may_replace_one_of_its_own_sources(files: tuple[Path, Path]) -> None:
    one = read_lora(files[0])[0]
    merge([Summand(files[0], 3.0)], Output(files[0], "fp32", overwrite=True))
    same(read_lora(files[0])[0], lambda layer: 3 * dense(one, layer))


def test_nothing_is_overwritten_or_half_written(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(LoraFileError, match="already has 'one.safetensors'"):
        Output(files[0])
    monkeypatch.setattr("os.replace", lambda *_paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(LoraFileError, match="is full"):
        merge([Summand(files[0])], Output(tmp_path / "new.safetensors"))
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no whole safetensors file"),
        (b"\x00" * 100, "no whole safetensors file"),
        ("truncated", "no whole safetensors file"),
        ("checkpoint", "choose a LoRA with kohya's names"),
        ("peft", "choose a LoRA with kohya's names"),
        ("half", "no whole LoRA"),
        (None, "is no file"),
    ],
)
def test_a_bad_file_is_one_sentence_and_leaves_nothing(tmp_path: Path, content: Any, sentence: str) -> None:
    path = tmp_path / "bad.safetensors"
    if content == "truncated":
        path.write_bytes(write(tmp_path / "x.safetensors", make(1)).read_bytes()[:-50])
    elif content == "checkpoint":
        write(path, {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)})
    elif content == "peft":
        write(path, {"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": torch.ones(2)})
    elif content == "half":
        write(path, {f"{LINEAR}.lora_down.weight": torch.ones(2, 2)})
    elif content is not None:
        path.write_bytes(content)
    (tmp_path / "x.safetensors").unlink(missing_ok=True)
    with pytest.raises(LoraFileError, match=sentence) as raised:
        merge([Summand(path)], Output(tmp_path / "new.safetensors"))
    assert "bad.safetensors" in str(raised.value)
    assert [file.name for file in tmp_path.iterdir()] == (["bad.safetensors"] if content is not None else [])


def test_nothing_minus_itself(files: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    shutil.copy(files[0], copy)
    output = Output(tmp_path / "new.safetensors")
    with pytest.raises(LoraFileError, match="are the same"):
        subtract(Summand(files[0]), Summand(copy), output)
    made = subtract(Summand(files[0]), Summand(copy, 0.5), output)
    one = read_lora(files[0])[0]
    same(read_lora(made.path)[0], lambda layer: 0.5 * dense(one, layer), 2e-3)


def test_weights_that_are_no_numbers(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give a finite number"):
        Summand(files[0], float("inf"))
    with pytest.raises(ConfigError, match="give a rank"):
        lora_tools.resize_file(files[0], Output(tmp_path / "new.safetensors"), RankLimit())


def test_files_are_read_one_layer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {f"lora_unet_down_blocks_0_attentions_{n}_proj_in": (16, 16, 1, 1) for n in range(40)}
    paths = [write(tmp_path / f"{seed}.safetensors", make(seed, layers=layers)) for seed in range(3)]
    alive: list[weakref.ref[Any]] = []
    most = {"tensors": 0, "factors": 0}
    read, factors = FileSource.tensors, arithmetic.read_factors

    def count(kind: str, objects: list[Any]) -> None:
        alive.extend(map(weakref.ref, objects))
        alive[:] = [each for each in alive if each() is not None]
        most[kind] = max(most[kind], len(alive))

    def keep_snapshots(self: FileSource, layer: str) -> Tensors:
        found = read(self, layer)
        count("tensors", list(found.values()))
        return found

    def watched_factors(*given: Any) -> Any:
        found = factors(*given)
        count("factors", [found.up, found.down])
        return found

    monkeypatch.setattr(FileSource, "tensors", keep_snapshots)
    monkeypatch.setattr(arithmetic, "read_factors", watched_factors)
    made = average(paths, Output(tmp_path / "mean.safetensors"), RankLimit(rank=2))
    assert made.layers == 40
    # Of a layer: three tensors of the file being read, and two factors of each file read before.
    assert most["tensors"] <= 3 + 2 * 3
    assert most["factors"] <= 3 + 2 * 3


# Two models.


class FakeWeights:
    """A checkpoint in memory."""

    sha256 = "0" * 64

    def __init__(self, title: str, weights: Tensors) -> None:
        self.title, self._weights = title, weights
        self.shapes = {name: tuple(weight.shape) for name, weight in weights.items()}

    def weight(self, layer: str) -> torch.Tensor:
        return self._weights[layer]


def test_the_difference_of_two_models_in_a_rank() -> None:
    base = {name: random(*shape) for name, shape in SHAPES.items()}
    tuned = {name: weight + 0.1 * random(*weight.shape, seed=5) for name, weight in base.items()}
    models = FakeWeights("tuned", tuned), FakeWeights("base", base)
    kinds = ("self_attention", "convolutions", "projections")
    found = difference(*models, layers=kinds, parts=("IN", "MID", "OUT", "TE"), limit=RankLimit(rank=4))
    assert found.ranks == dict.fromkeys(sorted(SHAPES), 4)
    for layer in SHAPES:
        change = flat((tuned[layer].double() - base[layer].double()).numpy())
        left, values, right = np.linalg.svd(change, full_matrices=False)
        assert np.abs(flat(dense(found.tensors, layer)) - left[:, :4] * values[:4] @ right[:4]).max() < 1e-5
    some = difference(*models, layers=("convolutions",), parts=("OUT",), limit=RankLimit(energy=0.9))
    assert list(some.ranks) == [CONV]
    assert 0.9 <= some.kept < 1


def test_models_that_do_not_fit_together_are_one_sentence() -> None:
    base = {LINEAR: random(24, 20)}
    chosen: dict[str, Any] = {"layers": ("self_attention",), "parts": ("IN",), "limit": RankLimit(rank=2)}
    for other, sentence in (
        ({LINEAR: random(24, 21)}, "choose two checkpoints of one kind"),
        ({}, "lacks layer"),
        (base, "do not differ"),
        ({LINEAR: torch.full((24, 20), torch.nan)}, "not finite"),
    ):
        with pytest.raises(Exception, match=sentence):
            difference(FakeWeights("tuned", other), FakeWeights("base", base), **chosen)
    with pytest.raises(Exception, match="no text encoder"):
        difference(FakeWeights("a", base), FakeWeights("b", base), **{**chosen, "parts": ("IN", "TE")})
    with pytest.raises(ConfigError, match="no layers are chosen"):
        difference(FakeWeights("a", base), FakeWeights("b", base), **{**chosen, "layers": ()})


# What is shown.


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
