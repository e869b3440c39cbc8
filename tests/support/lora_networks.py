"""LoRAs of every kind over the fake host's model, and what the model then predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.lora.file import build_metadata, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from tests.support.fake_host import FakeHost

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"dora": True},
    "LoHa": {"algorithm": "loha"},
    "LoKr": {"algorithm": "lokr"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(host: FakeHost, kind: str, **settings: Any) -> LoraNetwork:
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=2, alpha=3.0, seed=0, **KINDS[kind], **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return network


def predict(host: FakeHost) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    latents, cond = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 6, generator=generator)
    with torch.no_grad():
        return host.predict_noise(latents, torch.tensor([500]), Conditions(cond))


def save(path: Path, network: LoraNetwork, weight: float = 1.0, precision: str = "fp32", **settings: Any) -> Path:
    tensors = network.tensors(weight)
    metadata = build_metadata(
        TrainConfig.create(rank=2, alpha=3.0, **settings), name="blink", model_title="fake", model_hash="",
        learnt="The difference of two pictures, learnt with ADDifT",
        comment="ADDifT (Alternating Direct Difference Training)",
        prediction_type="epsilon", report={}, tensors=tensors, resolution=(64, 64),
    )  # fmt: skip
    return save_lora(path, tensors, metadata, precision=precision)
