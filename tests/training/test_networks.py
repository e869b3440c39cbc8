"""The LoRAs of a run: the first one of the settings, and that of the text model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import lora_modules
from lib_addift.diffusion.latents import conds_at
from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Request
from lib_addift.training.methods import make_config
from lib_addift.training.networks import start_lora
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost
from tests.support.training import delta, pictures

QUICK = {"max_train_steps": 4, "sampling_steps": 2, "rank": 2, "learning_rate": 1e-3, "mask": "off"}


def test_a_saved_first_lora_is_used_again(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    first = Request(
        (PairSource(pictures()[0], pictures()[0], is_single=True),), "first",
        TrainConfig.create("action", method="lora", save_precision="fp32", **QUICK),
    )  # fmt: skip
    run = TrainingRun(host, first)
    list(run.events())
    config = TrainConfig.create(
        "action", method="residual", first_lora=str(run.results[0].path), calibrate=False, **QUICK
    )
    again = TrainingRun(host, Request.of(*pictures(), "second", config))
    list(again.events())
    assert again.results[0].steps == 4
    both = TrainingRun(
        host, Request.of(*pictures(), "both", TrainConfig.create("action", method="residual", calibrate=False, **QUICK))
    )
    list(both.events())
    assert both.results[0].steps == 8
    one, other = (
        LoraNetwork.from_tensors(read_lora(run.results[0].path)[0], host.unet, host.lora_name) for run in (again, both)
    )
    for name, change in delta(one).items():
        assert torch.allclose(change, delta(other)[name], atol=2e-3 * float(change.detach().abs().max())), name


def test_a_first_lora_that_is_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no use for first_lora"):
        make_config(first_lora="x.safetensors")
    config = TrainConfig.create("action", method="copier", first_lora=str(tmp_path / "none.safetensors"), **QUICK)
    with pytest.raises(LoraFileError, match="does not exist"):
        TrainingRun(FakeHost(tmp_path), Request.of(*pictures(), "x", config))


def test_a_text_encoder_lora_learns_and_acts_in_the_conditions(tmp_path: Path) -> None:
    """Its layers are in the file; proof and strip are drawn under conditions that it changes."""
    settings = {**QUICK, "max_train_steps": 8, "text_encoder_rate": 1.0, "save_precision": "fp32"}
    config = TrainConfig.create("action", method="lora", train_text_encoder=True, prompt="a cat", **settings)
    host = FakeHost(tmp_path)
    run = TrainingRun(host, Request.of(*pictures(), "text", config))
    list(run.events())
    tensors, _ = read_lora(run.results[0].path)
    ups = {key: tensor for key, tensor in tensors.items() if key.startswith("lora_te") and key.endswith("up.weight")}
    assert ups
    assert all(tensor.any() for tensor in ups.values())
    network = LoraNetwork.over(lora_modules(host), tensors)
    before = host.encode_prompts(["a cat"])
    with network.attach():
        moved = conds_at(host, ["a cat"] * 3, before.expand(3), network, torch.tensor([0.0, 1.0, -1.0]))
    assert torch.allclose(moved.crossattn[0], before.crossattn[0])
    assert all((each - before.crossattn[0]).abs().max() > 1e-6 for each in moved.crossattn[1:])
    assert torch.equal(host.encode_prompts(["a cat"]).crossattn, before.crossattn)
    assert not any(module._forward_hooks for module in [*host.unet.modules(), *host.text_model.modules()])


class WithoutNorm(FakeHost):
    """Its conditions vary around 0 in every channel, and its UNet has a block whose self-attention follows a norm."""

    def __init__(self, lora_dir: Path) -> None:
        super().__init__(lora_dir)
        block = nn.Module()
        block.attn1, block.norm1 = nn.Module(), nn.LayerNorm(8)
        block.attn1.to_v = nn.Linear(8, 8)
        nn.init.uniform_(block.norm1.bias)
        self.unet.add_module("mid_block", nn.Module())
        self.unet.mid_block.add_module("attentions", block)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        generator = torch.Generator().manual_seed(len(prompts))
        return Conditions(torch.randn(len(prompts), 5, 6, generator=generator))


def test_a_shift_is_of_the_words_where_a_vector_is_the_same_for_all_of_them(tmp_path: Path) -> None:
    network = start_lora(FakeHost(tmp_path), TrainConfig.create("concept"), 0)
    assert {name.rpartition("_attn")[2] for name in network.layers} == {"2_to_v"}


def test_and_else_of_the_self_attention(tmp_path: Path) -> None:
    host = WithoutNorm(tmp_path)
    network = start_lora(host, TrainConfig.create("concept"), 0)
    assert [name.rpartition("_attn")[2] for name in network.layers] == ["1_to_v"]
    (layer,) = network.layers.values()
    normed = host.unet.mid_block.attentions.norm1(torch.randn(50, 8)).detach()
    values = (normed @ layer.lora_down.T).detach()
    assert torch.allclose(values, values[:1].expand_as(values), rtol=1e-2), "the same for every place"
