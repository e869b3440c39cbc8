"""Checkpoint files that are refused, each with the reason and what to do."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_addift.demo.run import CHECKPOINT
from lib_addift.errors import HostError
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora import names

Tensors = dict[str, torch.Tensor]


def refusal(path: Path, **options: str) -> str:
    """The message with which a file is refused: of one line, with a rule and a remedy."""
    with pytest.raises(HostError) as caught:
        StandaloneHost(path, **{"device": "cpu", **options})
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert 30 < len(message) < 400, message
    return message


def keys(*which: str) -> Tensors:
    return {key: torch.zeros(2, 2) for key in which}


U, V, T = names.UNET_PREFIX, names.VAE_PREFIX, names.TEXT_PREFIX


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (keys("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"), "is a LoRA"),
        (keys("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"), "is a LoRA"),
        (keys("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"), "is a LoRA"),
        (keys("base_model.model.to_q.lora_B.weight"), "is a LoRA"),
        (keys("lycoris_down_blocks_0.hada_w1_a"), "is a LoRA"),
        (keys("conditioner.embedders.0.model.x", U + "input_blocks.0.0.weight"), "is SDXL's refiner"),
        (keys(U + "cap_embedder.0.weight"), "is Lumina or Z-Image"),
        (keys("conditioner.embedders.0.transformer.x", U + "input_blocks.0.0.weight"), "has the shape (2, 2)"),
        (keys("cond_stage_model.model.ln_final.weight", U + "input_blocks.0.0.weight"), "is SD2"),
        (keys(U + "joint_blocks.0.x_block.attn.qkv.weight"), "is SD3"),
        (keys("double_blocks.0.img_attn.qkv.weight"), "is Flux"),
        (keys(U + "double_blocks.0.img_attn.qkv.weight"), "is Flux"),
        (keys("down_blocks.0.attentions.0.proj_in.weight", "conv_in.weight"), "diffusers layout"),
        (keys("first.weight", "second.weight"), "no Stable Diffusion model"),
        ({}, "no Stable Diffusion model"),
        (keys(U + "something.else"), "no UNet of SD1.x or SDXL"),
        ({U + "input_blocks.0.0.weight": torch.zeros(5)}, "has the shape (5,)"),
        ({U + "input_blocks.0.0.weight": torch.zeros(())}, "has the shape ()"),
        ({U + "input_blocks.0.0.weight": torch.zeros(320, 9, 3, 3)}, "inpainting"),
        ({U + "input_blocks.0.0.weight": torch.zeros(320, 8, 3, 3)}, "instruct-pix2pix"),
        ({U + "input_blocks.0.0.weight": torch.zeros(320, 5, 3, 3)}, "reads 5 channels"),
        ({U + "input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3), **keys(U + "odd.name")}, "UNet that is not SD1.5"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, content: Tensors, words: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file(content, path)
    message = refusal(path)
    assert words in message
    assert message.startswith("'other.safetensors'")


@pytest.mark.parametrize(("prefix", "what"), [(V, "VAE"), (T, "text model"), (U, "Stable Diffusion")])
def test_a_file_without_one_of_the_models_is_refused(tensors: Tensors, tmp_path: Path, prefix: str, what: str) -> None:
    path = tmp_path / "part.safetensors"
    save_file({key: value for key, value in tensors.items() if not key.startswith(prefix)}, path)
    assert f"holds no {what}" in refusal(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "gone",
    [
        U + "middle_block.1.proj_in.weight",
        U + "input_blocks.1.0.in_layers.2.weight",  # widths are read off this one
        U + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        V + "encoder.down.0.block.0.conv1.weight",
        V + "decoder.conv_out.bias",
        T + "text_model.embeddings.token_embedding.weight",
        T + "text_model.encoder.layers.3.mlp.fc1.weight",
        T + "text_model.encoder.layers.",  # all of them
    ],
)
def test_a_file_with_a_hole_is_refused(tensors: Tensors, tmp_path: Path, gone: str) -> None:
    path = tmp_path / "hole.safetensors"
    kept = {key: value for key, value in tensors.items() if not key.startswith(gone)}
    assert len(kept) < len(tensors)
    save_file(kept, path)
    assert "not SD1.5" in refusal(path)


@pytest.mark.slow
def test_a_file_with_a_tensor_too_many_or_of_another_shape_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({**tensors, U + "input_blocks.1.0.more.weight": torch.zeros(1)}, path)
    assert "not SD1.5" in refusal(path)
    key = U + "input_blocks.1.1.proj_in.weight"  # linear, as in SD2
    save_file({**tensors, key: tensors[key][:, :, 0, 0].contiguous()}, path)
    assert "not SD1.5" in refusal(path)


WIDTHS = [  # tensors that widths and the number of layers are read off
    U + "input_blocks.1.0.in_layers.2.weight",
    U + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    V + "encoder.down.0.block.0.conv1.weight",
    T + "text_model.embeddings.token_embedding.weight",
    T + "text_model.encoder.layers.0.mlp.fc1.weight",
]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("key", WIDTHS)
@pytest.mark.parametrize("shape", [(), (5,), (0, 0), (7, 7), (0,)])
def test_a_file_whose_widths_make_no_sense_is_refused(
    tensors: Tensors, tmp_path: Path, key: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({**tensors, key: torch.zeros(shape)}, path)
    assert "not SD1.5" in refusal(path)


@pytest.mark.slow
def test_a_short_token_table_and_far_layers_are_refused(tensors: Tensors, tmp_path: Path) -> None:
    """The tokenizer's last words would have no row; and no model of a billion layers is begun."""
    path, table = tmp_path / "odd.safetensors", T + "text_model.embeddings.token_embedding.weight"
    save_file({**tensors, table: tensors[table][:-9].clone()}, path)
    assert "it knows 49399 tokens, and the tokenizer has 49408" in refusal(path)
    save_file({**tensors, T + "text_model.encoder.layers.999999999.mlp.fc1.weight": torch.zeros(2, 2)}, path)
    assert "not SD1.5" in refusal(path)


def truncated(path: Path) -> None:
    path.write_bytes(CHECKPOINT.read_bytes()[:100_000])


def truncated_header(path: Path) -> None:
    path.write_bytes(CHECKPOINT.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, "may be truncated"),
        (truncated_header, "may be truncated"),
        (lambda path: path.write_bytes(b""), "may be truncated"),
        (lambda path: path.write_bytes(b"<html>404</html>" * 100), "may be truncated"),
        (lambda path: path.mkdir(), "is no file"),
        (lambda path: None, "is no file"),
    ],
)
def test_a_broken_or_missing_file_is_refused(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "broken.safetensors"
    make(path)
    message = refusal(path)
    assert words in message
    assert "broken.safetensors" in message


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".CKPT", ".bin"])
def test_a_pickle_is_refused_and_not_opened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    assert "is a pickle" in refusal(path)


def test_a_pickle_that_calls_itself_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"state_dict": {"x": torch.zeros(100)}}, path)
    assert "no whole .safetensors file" in refusal(path)


@pytest.mark.parametrize("device", ["banana", "", "cpu:banana", "cuda:99"])
def test_an_unknown_device_is_refused(device: str) -> None:
    assert f"device '{device}' cannot be used here" in refusal(CHECKPOINT, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
def test_cuda_without_cuda_is_refused() -> None:
    message = refusal(CHECKPOINT, device="cuda")
    assert "device 'cuda' cannot be used here" in message
    assert "choose cpu" in message


def test_an_unknown_precision_is_refused() -> None:
    assert "fp8" in refusal(CHECKPOINT, precision="fp8")


def test_without_clips_vocabulary_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    message = refusal(CHECKPOINT)
    assert "open_clip_torch" in message
    assert "pip install" in message
