"""LoRA files read one layer at a time, and files that cannot be read."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_addift.errors import LoraFileError
from lib_addift.lora import arithmetic
from lib_addift.lora.arithmetic import RankLimit
from lib_addift.lora.source import FileSource
from lib_addift.lora.tools import Output, Summand, average, merge
from tests.support.loras import LINEAR, Tensors, make, write


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
