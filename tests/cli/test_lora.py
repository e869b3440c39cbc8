"""The command `lora`: every operation from the command line, with what it prints and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_addift.cli.main import main
from lib_addift.config.settings import BLOCKS, LAYER_KINDS
from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT, TASKS
from lib_addift.diffusion.host import lora_modules
from lib_addift.evaluation.round_trip import _Probe
from lib_addift.hosts import standalone
from lib_addift.hosts.checkpoint import open_weights
from lib_addift.lora.file import describe, read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from tests.support.dense import dense, layers_of
from tests.support.fake_host import FakeHost
from tests.support.loras import CONV, LINEAR, POINT, SHAPES, TEXT, make, same, write

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "one.safetensors", make(1)), write(tmp_path / "other.safetensors", make(2, rank=5))


def lora(*arguments: Any) -> int:
    return main(["lora", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one sentence with which the command fails."""
    assert lora(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert (error.count("\n"), error[-2:]) == (1, ".\n")
    return error


def test_subtract(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "Lora" / "less.safetensors"
    assert lora("subtract", *files, "--weight", -0.5, "--blocks", "OUT=2", "--out", out, "--precision", "fp32") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "4 layers of rank 8, 9.0 KB." in shown.out
    assert "Use it as <lora:less:1>." in shown.out
    one, other = (load_file(file) for file in files)
    same(read_lora(out)[0], lambda layer: dense(one, layer) + (1.0 if layer == CONV else 0.5) * dense(other, layer))
    assert sorted(file.name for file in out.parent.iterdir()) == ["less.json", "less.safetensors"]
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["description"] == "Made by 'subtract' of one.safetensors, other.safetensors."


def test_merge_with_weights_and_blocks_for_each_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "sum.safetensors"
    blocks = ("--blocks", "MID=0", "--blocks", "TE=0")
    assert lora("merge", *files, "--weights", 2, -0.25, *blocks, "--out", out, "--precision", "fp32") == 0
    one, other = (load_file(file) for file in files)

    def wanted(layer: str) -> np.ndarray:
        return 2 * (layer != POINT) * dense(one, layer) - 0.25 * (layer != TEXT) * dense(other, layer)

    same(read_lora(out)[0], wanted)
    assert lora("merge", *files, "--blocks", "ALL=0, OUT03=1", "--out", out, "--overwrite", "--precision", "fp32") == 0
    assert layers_of(read_lora(out)[0]) == [CONV]
    same(read_lora(out)[0], lambda layer: dense(one, layer) + dense(other, layer))


def test_average(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "mean.safetensors"
    assert lora("average", *files, "--out", out, "--precision", "fp32") == 0
    one, other = (load_file(file) for file in files)
    same(read_lora(out)[0], lambda layer: (dense(one, layer) + dense(other, layer)) / 2)


def test_resize_by_rank_and_by_energy(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.safetensors"
    assert lora("resize", files[1], "--rank", 2, "--out", out) == 0
    assert "4 layers of rank 2, 3.0 KB, 65.1% of the energy." in capsys.readouterr().out
    report = json.loads(read_lora(out)[1]["addift.report"])
    assert (report["rank_limit"], report["rank"]) == (2, 2)
    assert 0 < report["kept_energy"] < 1
    assert lora("resize", files[1], "--energy", 0.9, "--out", out, "--overwrite") == 0
    assert json.loads(read_lora(out)[1]["addift.report"])["kept_energy"] >= 0.9
    assert out.stat().st_size < files[1].stat().st_size


def test_show_says_more_than_inspect(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert lora("show", files[0], "--layers") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(describe(files[0]))
    assert all(word in shown for word in ("IN04", "MID", "OUT03", "TE", "effective", *SHAPES))


def test_what_cannot_be_done_is_one_sentence(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = files
    before = sorted(tmp_path.iterdir())
    out = ("--out", tmp_path / "new.safetensors")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "bad.safetensors").write_bytes(b"\x00" * 20)
    for arguments, sentence in (
        (("merge", one, "--out", other), "already has 'other.safetensors'"),
        (("merge", one, "--out", tmp_path / "new.pt"), "does not end in .safetensors"),
        (("merge", one, other, "--weights", 1, *out), "1 numbers for 2 files"),
        (("merge", one, "--weights", "nan", *out), "give a finite number"),
        (("merge", one, "--weights", 0, *out), "nothing is left"),
        (("merge", one, "--blocks", "UP=1", *out), "names no block"),
        (("merge", one, "--blocks", "IN=1", "--blocks", "IN=0", *out), "give it once"),
        (("merge", one, broken / "bad.safetensors", *out), "no whole safetensors file"),
        (("merge", tmp_path / "nowhere.safetensors", *out), "is no file"),
        (("subtract", one, one, *out), "are the same"),
        (("resize", one, *out), "give a rank"),
        (("resize", one, "--rank", -3, *out), "must be a whole number"),
        (("resize", one, "--energy", 2, *out), "must be a share"),
        (("show", tmp_path), "is no file"),
        (("extract", one, other, *out), "is a LoRA, not a checkpoint"),
        (("extract", CHECKPOINT, tmp_path / "no.safetensors", *out), "is no file"),
        (("extract", CHECKPOINT, CHECKPOINT, *out), "do not differ"),
        (("extract", CHECKPOINT, CHECKPOINT, "--rank", 0, *out), "give a rank, such as 32"),
    ):
        assert sentence in refused(capsys, *arguments), arguments
    assert sorted(each for each in tmp_path.iterdir() if each != broken) == before


def test_wrong_usage_has_code_2(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["lora"], ["lora", "merge", str(files[0])], ["lora", "resize", "--rank", "x"]):
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        assert raised.value.code == 2
    capsys.readouterr()


@pytest.mark.slow
def test_no_model_library_is_loaded_for_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    program = (
        "import sys; from lib_addift.cli.main import main; code = main(sys.argv[1:]);"
        "print(sorted({'diffusers', 'transformers', 'gradio'} & set(sys.modules))); sys.exit(code)"
    )
    arguments = ["lora", "average", *map(str, files), "--out", str(tmp_path / "mean.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# Two checkpoints.


_LEARNS = re.compile(
    r"^model\.diffusion_model\.(input|middle|output)_.*\.(to_[qkv]|to_out\.0|net\.0\.proj|net\.2|proj_in|proj_out|"
    r"in_layers\.2|out_layers\.3|emb_layers\.1|skip_connection|op|conv)\.weight$"
    r"|^cond_stage_model\..*\.layers\..*\.((q|k|v|out)_proj|fc[12])\.weight$"
)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world's checkpoint, in which every layer that a LoRA can have has learnt a little of rank 3."""
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(CHECKPOINT)
    for key, tensor in tensors.items():
        if _LEARNS.search(key):
            matrix = tensor.float().flatten(1)
            low = [torch.randn(size, generator=generator) for size in ((len(matrix), 3), (3, matrix.shape[1]))]
            change = low[0] @ low[1] * matrix.std() / 20
            tensors[key] = (matrix + change).reshape(tensor.shape)
    path = tmp_path_factory.mktemp("tuned") / "tuned.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.slow
def test_extract_gives_back_what_was_learnt(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "learnt.safetensors"
    parts = ("--parts", "IN", "MID", "OUT", "TE")
    assert lora("extract", tuned, CHECKPOINT, "--rank", 3, *parts, "--out", out, "--precision", "fp32") == 0
    assert "of rank 3, " in capsys.readouterr().out
    tensors, metadata = read_lora(out)
    host, other = (standalone.StandaloneHost(path, device="cpu", precision="fp32") for path in (CHECKPOINT, tuned))
    chosen = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    text = [name for name in lora_modules(host) if name.startswith("lora_te")]
    assert layers_of(tensors) == sorted([*chosen, *text])
    before, after = lora_modules(host), lora_modules(other)
    for layer in layers_of(tensors):
        change = after[layer].weight - before[layer].weight
        assert np.allclose(dense(tensors, layer), change.double().numpy(), atol=2e-3 * float(change.abs().max()))
    network = LoraNetwork.over(before, tensors)
    prompts, late = ["a face with closed eyes"], torch.tensor([500])
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), network.attach():
        cond = host.encode_prompts(prompts)
        found = host.predict_noise(latents, late, cond)
    with torch.no_grad():
        wanted_cond, plain_cond = other.encode_prompts(prompts), host.encode_prompts(prompts)
        wanted = other.predict_noise(latents, late, wanted_cond)
        plain = host.predict_noise(latents, late, plain_cond)
    wanted_text = wanted_cond.crossattn
    assert (cond.crossattn - wanted_text).norm() < 0.02 * (plain_cond.crossattn - wanted_text).norm()
    assert (found - wanted).norm() < 0.02 * (plain - wanted).norm()
    assert metadata["ss_sd_model_name"] == CHECKPOINT.name
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert len(json.loads(metadata["addift.report"])["files"]) == 2


def test_extract_of_some_layers(tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "some.safetensors"
    options = ("--layers", "self_attention", "--parts", "MID", "--energy", 0.7)
    assert lora("extract", tuned, CHECKPOINT, *options, "--out", out) == 0
    names = layers_of(read_lora(out)[0])
    assert len(names) == 4
    assert all("mid_block" in name and "attn1" in name for name in names)


def test_extract_takes_one_layer_at_a_time(tuned: Path) -> None:
    with open_weights(tuned) as weights:
        assert set(weights.shapes) >= {LINEAR.replace("down_blocks_1", "down_blocks_0")}
        name = next(iter(weights.shapes))
        assert tuple(weights.weight(name).shape) == weights.shapes[name]


def test_checkpoints_of_two_kinds_are_not_compared(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = tmp_path / "wide.safetensors"
    tensors = load_file(tuned)
    key = next(key for key in tensors if key.endswith("attn2.to_k.weight"))
    save_file({**tensors, key: torch.zeros(3, 3)}, wide)
    error = refused(capsys, "extract", wide, CHECKPOINT, "--out", tmp_path / "new.safetensors")
    assert "choose two checkpoints of one kind" in error
    assert "attn2_to_k" in error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["wide.safetensors"]


# Calibration.


def calibrate(lora_file: Path, pair_files: tuple[Path, Path], out: Path, *more: str) -> int:
    settings = ("--set", "sampling_steps=4", "--set", "save_precision=fp32", "--device", "cpu")
    pictures = ("--original", pair_files[0], "--target", pair_files[1])
    return lora("calibrate", lora_file, "--checkpoint", CHECKPOINT, *pictures, "--out", out, *settings, *more)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A LoRA for the fake host, which stands in for the standalone one."""
    monkeypatch.setattr(
        standalone, "StandaloneHost", lambda _checkpoint, *, lora_dir, device, precision, clip_skip: FakeHost(lora_dir)
    )
    host = FakeHost()
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=2, alpha=0.1, seed=0)
    for layer in network.layers.values():
        for parameter in layer.zero_init_parameters():
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    return write(tmp_path / "small.safetensors", network.tensors())


@pytest.mark.parametrize("right", [0.02, 0.3, 1.0, -1.2, 3.4, 20.0])
def test_calibrate_finds_weights_of_every_size(
    small: Path,
    pair_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    right: float,
) -> None:
    """With a LoRA that is known to be right at one weight; it is said where that turns it round."""

    def scores(_probe: object, weights: Sequence[float]) -> dict[float, float]:
        return {weight: 1 - (1 - weight / right) ** 2 for weight in weights}

    monkeypatch.setattr(_Probe, "scores", scores)
    out = tmp_path / "Lora" / "right.safetensors"
    assert calibrate(small, pair_files, out, "--set", "strength=2") == 0
    assert ("turned round" in capsys.readouterr().out) == (right < 0)
    found = json.loads(read_lora(out)[1]["addift.report"])
    assert found["best_weight"] == pytest.approx(right, rel=0.5)
    assert found["recovery"] > 0.8
    old = load_file(small)
    same(read_lora(out)[0], lambda layer: 2 * found["best_weight"] * dense(old, layer), 1e-4)


def test_calibrate_refuses_what_reproduces_nothing(
    small: Path, pair_files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.safetensors"
    assert calibrate(small, pair_files, out) == 1
    assert "so nothing was saved" in capsys.readouterr().err
    assert calibrate(small, (pair_files[0], pair_files[0]), out) == 1
    assert "identical" in capsys.readouterr().err
    other = write(tmp_path / "other.safetensors", make(1, layers={LINEAR: SHAPES[LINEAR]}))
    assert calibrate(other, pair_files, out) == 1
    assert "for another model" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.long
@pytest.mark.slow
def test_calibrate_undoes_a_change_of_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "original.png", tmp_path / "target.png"
    for path, face in zip(pictures, TASKS["eyes"].faces(1), strict=True):
        world.draw(face).save(path)
    folder = tmp_path / "Lora"
    settings = {"max_train_steps": 25, "sampling_steps": 4, "save_precision": "fp32"}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = ["train", "--checkpoint", str(CHECKPOINT), "--original", str(pictures[0]), "--target", str(pictures[1])]
    assert (
        main([*command, "--name", "raw", "--lora-dir", str(folder), "--device", "cpu", "--preset", "action", *options])
        == 0
    )
    trained, scaled, out = (folder / f"{name}.safetensors" for name in ("raw", "scaled", "right"))
    assert lora("merge", trained, "--weights", -6, "--out", scaled, "--precision", "fp32") == 0
    assert calibrate(scaled, pictures, out) == 0
    assert "it reproduces" in capsys.readouterr().out
    weight = json.loads(read_lora(out)[1]["addift.report"])["best_weight"]
    assert -6 * weight == pytest.approx(1, abs=0.4)
    assert out.with_suffix(".png").is_file()
