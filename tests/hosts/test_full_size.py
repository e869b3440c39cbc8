"""A full-size SD1.5 file, with random weights, loads and trains. Needs 8 GB of memory and 3 GB of disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo import world
from lib_addift.experiments.bench.full_size import write_full_size
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport

pytestmark = pytest.mark.full_size


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("full_size") / "sd15.safetensors"
    write_full_size(path)
    yield path
    path.unlink()  # pytest would keep three runs of 2 GB


def unet_hash(host: StandaloneHost) -> str:
    digest = hashlib.sha256()
    for tensor in host.unet.state_dict().values():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_full_size_checkpoint_trains(full_size: Path, tmp_path: Path, precision: str) -> None:
    assert full_size.stat().st_size > 2 * 10**9
    host = StandaloneHost(full_size, lora_dir=tmp_path, device="cpu", precision=precision)
    assert sum(parameter.numel() for parameter in host.unet.parameters()) == 859_520_964, "as published"
    assert sum(parameter.numel() for parameter in host.text_model.parameters()) == 123_060_480
    assert sum(parameter.numel() for parameter in host.vae.parameters()) == 83_653_863
    before = unet_hash(host)
    original, target = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
    config = TrainConfig.create(
        "action", max_train_steps=2, sampling_steps=1, rank=4, layers=LAYER_KINDS, blocks=BLOCKS
    )
    run = TrainingRun(host, Request.of(original, target, "full", config))
    reports = [event for event in run.events() if isinstance(event, StepReport)]
    assert [report.skipped for report in reports] == [0, 0]
    assert unet_hash(host) == before

    tensors, metadata = read_lora(run.results[0].path)
    layers = {key.split(".")[0] for key in tensors}
    assert len(layers) == 278
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    for name, shape in {
        "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (4, 320),
        "down_blocks_1_attentions_1_transformer_blocks_0_attn2_to_k": (4, 768),
        "mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj": (4, 1280),
        "mid_block_attentions_0_proj_in": (4, 1280, 1, 1),
        "up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_out_0": (4, 320),
        "up_blocks_0_upsamplers_0_conv": (4, 1280, 3, 3),
        "down_blocks_3_resnets_1_time_emb_proj": (4, 1280),
    }.items():
        assert tensors[f"lora_unet_{name}.lora_down.weight"].shape == shape, name
