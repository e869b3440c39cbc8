"""Arithmetic on LoRA files: what is written, what it says of itself, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.lora import tools as lora_tools
from lib_addift.lora.arithmetic import RankLimit, resize
from lib_addift.lora.blocks import BlockWeights
from lib_addift.lora.file import describe, read_lora
from lib_addift.lora.tools import Output, Summand, average, merge, subtract
from tests.support.dense import dense, layers_of
from tests.support.loras import CONV, LINEAR, POINT, SHAPES, TEXT, make, same, write


def test_factors_of_a_truncated_lora_fit_into_fp16(tmp_path: Path) -> None:
    for size in (1e-7, 1.0, 1e5):
        lora = make(8)
        for layer in SHAPES:
            lora[f"{layer}.alpha"] = torch.tensor(size)
        path = write(tmp_path / "a.safetensors", lora)
        made = lora_tools.resize_file(path, Output(tmp_path / "b.safetensors", overwrite=True), RankLimit(rank=2))
        best = resize(lora, rank=2)
        same(read_lora(made.path)[0], lambda layer, best=best: dense(best, layer), 5e-3)


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
