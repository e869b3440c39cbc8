"""What a LoRA file says of itself, in metadata and in words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from lib_addift.config.settings import TrainConfig
from lib_addift.lora.file import build_metadata, describe, read_lora, save_lora
from lib_addift.lora.network import LoraNetwork
from tests.support.fake_host import FakeHost
from tests.support.lora_files import CONV, make_metadata, make_tensors, split
from tests.support.lora_networks import KINDS, every_kind, make, save

# Metadata


def test_metadata_says_what_tools_look_for() -> None:
    metadata = make_metadata(prompt="face, closed eyes", optimizer_args="weight_decay=0.01", min_snr_gamma=5.0)
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "3.2",
        "ss_learning_rate": "0.0001",
        "ss_max_train_steps": "60",
        "ss_steps": "60",
        "ss_optimizer": "AdamW(weight_decay=0.01)",
        "ss_lr_scheduler": "cosine",
        "ss_seed": "1",
        "ss_min_snr_gamma": "5.0",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_sd_model_name": "tiny-world",
        "ss_new_sd_model_hash": "ab" * 32,
        "ss_output_name": "eyes",
        "ss_resolution": "(512, 768)",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": "eyes",
        "modelspec.resolution": "512x768",
        "modelspec.prediction_type": "epsilon",
        "modelspec.timestep_range": "500,1000",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert json.loads(metadata["ss_tag_frequency"]) == {"addift": {"face": 1, "closed eyes": 1}}
    assert json.loads(metadata["addift.report"])["round_trip"]["error"] == 0.25
    assert all(isinstance(value, str) for value in metadata.values())


def test_a_lora_can_be_trained_again_from_its_file(tmp_path: Path) -> None:
    config = TrainConfig(rank=8, layers=("cross_attention",), prompt="a face", seed=7)
    metadata = make_metadata(rank=8, layers=("cross_attention",), prompt="a face", seed=7)
    _, read = read_lora(save_lora(tmp_path / "eyes.safetensors", make_tensors(), metadata))
    assert TrainConfig(**json.loads(read["addift.config"])) == config


def test_metadata_of_other_runs() -> None:
    metadata = build_metadata(
        TrainConfig(precision="fp32"),
        learnt="The difference of two pictures, learnt with ADDifT",
        comment="ADDifT (Alternating Direct Difference Training)",
        name="eyes",
        model_title="tiny-world",
        model_hash="",
        prediction_type="v_prediction",
        report={},
        tensors=make_tensors(),
        resolution=(64, 64),
        steps=30,
    )
    assert metadata["modelspec.prediction_type"] == "v"
    assert metadata["ss_mixed_precision"] == "no"
    assert metadata["ss_min_snr_gamma"] == "None"
    assert metadata["ss_tag_frequency"] == "{}"
    assert (metadata["ss_steps"], metadata["ss_max_train_steps"]) == ("30", "60")
    assert "ss_new_sd_model_hash" not in metadata


# Describing


def test_our_own_lora_in_words(tmp_path: Path) -> None:
    metadata = make_metadata(rank=8, layers=("self_attention", "convolutions"), calibrate=False)
    path = save_lora(tmp_path / "eyes.safetensors", make_tensors(), metadata)
    size = f"{path.stat().st_size / 2**20:.2f} MB"
    data = split(path.read_bytes())[1]
    assert describe(path).splitlines() == [
        f"eyes.safetensors: LoRA of {size}",
        "Base model: sd_v1",
        "Rank: 4; alpha: 3.2; stored as float16",
        "Layers: 3 (1 convolutions, 1 cross attention, 1 self attention)",
        f"Hash of the tensors (AutoV3): {hashlib.sha256(data).hexdigest()[:12]}",
        f"Hash of the file (AutoV2): {hashlib.sha256(path.read_bytes()).hexdigest()[:10]}",
        "Method: ADDifT (Alternating Direct Difference Training)",
        "Trained on: tiny-world",
        "Resolution: (512, 768)",
        "Steps: 60",
        "Learning rate: 0.0001",
        "Optimizer: AdamW",
        "Seed: 1",
        "Settings other than the defaults:",
        "  Calibrate: no",
        "  Layers: self_attention, convolutions",
        "  Rank: 8",
        "Report:",
        "  aligned: yes",
        "  losses: 0.5, 0.25",
        "  round trip best weight: 1",
        "  round trip error: 0.25",
    ]


def test_default_settings_are_said_to_be_so(tmp_path: Path) -> None:
    path = save_lora(tmp_path / "eyes.safetensors", make_tensors(), make_metadata())
    assert "Settings other than the defaults:\n  none\n" in describe(path)


@pytest.mark.parametrize(("width", "base"), [(768, "SD1"), (1024, "SD2"), (2048, "SDXL"), (48, "unknown")])
def test_a_foreign_lora_in_words(tmp_path: Path, width: int, base: str) -> None:
    tensors = make_tensors(width=width)
    del tensors[f"{CONV}.alpha"]
    tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = torch.ones(16, 8)
    tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = torch.ones(8, 16)
    tensors["lora_unet_something.lora_down.weight"] = torch.ones(4, 8)
    tensors["lora_unet_something.lora_up.weight"] = torch.ones(8, 4)
    safetensors.torch.save_file(tensors, tmp_path / "foreign.safetensors")
    lines = describe(tmp_path / "foreign.safetensors").splitlines()
    assert lines[1:4] == [
        f"Base model: {base}",
        "Rank: 4 to 16; alpha: 3.2 to 16; stored as float32",
        "Layers: 5 (1 convolutions, 1 cross attention, 1 other, 1 self attention, 1 text encoder)",
    ]
    assert len(lines) == 6


@pytest.mark.parametrize("value", ["not json", "[1]", "null", '{"old_setting": 3}'])
def test_metadata_that_others_have_changed_does_not_stop_describing(tmp_path: Path, value: str) -> None:
    metadata = {
        "addift.config": value,
        "addift.report": value,
        "ss_steps": "99",
        "ss_base_model_version": "sdxl_base_v1-0",
    }
    safetensors.torch.save_file(make_tensors(), tmp_path / "foreign.safetensors", metadata)
    text = describe(tmp_path / "foreign.safetensors")
    assert "Steps: 99" in text
    assert "Base model: sdxl_base_v1-0" in text
    assert ("  old setting: 3" in text) == value.startswith("{")


# Every kind of LoRA


@every_kind
def test_metadata_and_words_of_each_kind(tmp_path: Path, kind: str) -> None:
    network = make(FakeHost(), kind)
    path = save(tmp_path / "blink.safetensors", network, dropout=0.25, lora_plus_ratio=4, **KINDS[kind])
    _, metadata = read_lora(path)
    common = {"rank_dropout": "0.25", "loraplus_lr_ratio": "4"}
    lycoris = {"conv_dim": "2", "conv_alpha": "3", **common}
    expected: dict[str, tuple[str, dict[str, str]]] = {
        "LoRA": ("networks.lora", common),
        "DoRA": ("lycoris.kohya", {"algo": "lora", "dora_wd": "True", "wd_on_output": "False", **lycoris}),
        "LoHa": ("lycoris.kohya", {"algo": "loha", **lycoris}),
        "LoKr": ("lycoris.kohya", {"algo": "lokr", "factor": "-1", **lycoris}),
    }
    assert (metadata["ss_network_module"], json.loads(metadata["ss_network_args"])) == expected[kind]
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "2" if kind == "LoKr" else "3")
    lines = describe(path).splitlines()
    assert ("Algorithm: " + kind in lines) == (kind != "LoRA")
    assert "Rank: 2; alpha: 3; stored as float32" in lines or kind == "LoKr"
    assert "Layers: 6 (2 convolutions, 1 cross attention, 1 feed forward, 1 projections, 1 self attention)" in lines


@every_kind
@pytest.mark.parametrize(("width", "base"), [(768, "SD1"), (2048, "SDXL")])
def test_the_base_model_is_known_by_its_width_in_each_kind(tmp_path: Path, kind: str, width: int, base: str) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    network = LoraNetwork.create({name: nn.Linear(width, 32)}, rank=2, alpha=3.0, seed=0, **KINDS[kind])
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    path = save_lora(tmp_path / "x.safetensors", network.tensors(), {})
    assert f"Base model: {base}" in describe(path).splitlines()
