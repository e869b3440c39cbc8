"""One LoRA file, three ways to use it: our hooks, diffusers' loader, and weights merged by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from lib_addift.config import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo.run import CHECKPOINT
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora import LoraNetwork, select_layers
from lib_addift.lora_file import build_metadata, read_lora, save_lora

RANK, ALPHA = 3, 2.0


@pytest.fixture(scope="module")
def host() -> StandaloneHost:
    return StandaloneHost(CHECKPOINT, device="cpu", precision="fp32")


@pytest.fixture(scope="module", params=[1.0, -0.6], ids=["plain", "folded"])
def lora_file(request: pytest.FixtureRequest, host: StandaloneHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA over every layer that may learn, as strong as a trained one; 'folded': with a weight put into alpha."""
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=RANK, alpha=ALPHA, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in network.layers.values():
        layer.lora_up.data.normal_(0, 0.06, generator=generator)
    tensors = network.tensors(request.param)
    config = TrainConfig.create(rank=RANK, alpha=ALPHA)
    metadata = build_metadata(
        config, name="random", model_title=host.model_title, model_hash=host.model_hash, prediction_type="epsilon",
        report={}, tensors=tensors, resolution=(64, 64),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("lora") / "random.safetensors"
    return save_lora(path, tensors, metadata, precision="fp32")


@torch.no_grad()
def output(host: StandaloneHost, unet: UNet2DConditionModel | None = None) -> torch.Tensor:
    """What a UNet says to two noisy pictures of 128 px."""
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    cond = host.encode_prompts(["a face", "open eyes, red hair"])
    timesteps = torch.tensor([300, 900])
    return (unet or host.unet)(latents, timesteps, cond).sample


@torch.no_grad()
def through_hooks(host: StandaloneHost, path: Path, weight: float) -> torch.Tensor:
    network = LoraNetwork.from_tensors(read_lora(path)[0], host.unet, host.lora_name)
    network.multiplier = weight
    with network.attach():
        return output(host)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_diffusers_draws_the_same(host: StandaloneHost, lora_file: Path, weight: float) -> None:
    pipeline = StableDiffusionPipeline(
        vae=host.vae,
        text_encoder=host.text_model,
        tokenizer=None,
        unet=copy.deepcopy(host.unet),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),  # anything else is warned of
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    plain = output(host)
    assert difference(output(host, pipeline.unet), plain) == 0.0
    pipeline.load_lora_weights(lora_file.parent, weight_name=lora_file.name, adapter_name="ours")
    pipeline.set_adapters("ours", weight)
    ours = through_hooks(host, lora_file, weight)
    assert difference(ours, plain) > 0.03, "the LoRA changes something"
    assert difference(output(host, pipeline.unet), ours) < 1e-4


@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_merging_by_hand_draws_the_same(host: StandaloneHost, lora_file: Path, weight: float) -> None:
    """W + weight * alpha / rank * up @ down, as the file's readers have it, with nothing of ours but the file."""
    tensors = load_file(lora_file)
    merged = copy.deepcopy(host.unet)
    modules = {"lora_unet_" + name.replace(".", "_"): module for name, module in merged.named_modules()}
    layers = sorted({key.split(".")[0] for key in tensors})
    assert len(layers) == 278
    with torch.no_grad():
        for name in layers:
            down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
            delta = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(modules[name].weight.shape)
            modules[name].weight += weight * tensors[f"{name}.alpha"] / down.shape[0] * delta
    ours = through_hooks(host, lora_file, weight)
    assert difference(ours, output(host)) > 0.03
    assert difference(output(host, merged), ours) < 1e-4


def test_the_layers_are_named_as_kohya_names_them(host: StandaloneHost, lora_file: Path) -> None:
    """The walk of kohya-ss/sd-scripts, networks/lora.py: LoRANetwork.create_modules with conv_dim set."""
    parents = {"Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"}
    expected = {
        f"lora_unet.{name}.{child_name}".replace(".", "_")
        for name, module in host.unet.named_modules()
        if type(module).__name__ in parents
        for child_name, child in module.named_modules()
        if type(child).__name__ in {"Linear", "Conv2d", "LoRACompatibleLinear", "LoRACompatibleConv"}
    }
    assert {key.split(".")[0] for key in load_file(lora_file)} == expected


def test_shapes_are_kohyas(host: StandaloneHost, lora_file: Path) -> None:
    """Linear: (rank, in) and (out, rank); convolutions: the kernel in lora_down, 1 x 1 in lora_up; alpha a number."""
    tensors = load_file(lora_file)
    for name, module in select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS).items():
        outputs, inputs, *kernel = module.weight.shape
        assert tensors[f"{name}.lora_down.weight"].shape == (RANK, inputs, *kernel)
        assert tensors[f"{name}.lora_up.weight"].shape == (outputs, RANK, *[1] * len(kernel))
        assert tensors[f"{name}.alpha"].shape == ()
