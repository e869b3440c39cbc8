"""One LoRA file, several ways to use it: our hooks, diffusers' loader, peft's layers, and weights merged by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo.run import CHECKPOINT
from lib_addift.diffusion.host import text_layers
from lib_addift.families import SD15, SDXL, Family
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.lora.file import build_metadata, read_lora, save_lora
from lib_addift.lora.names import text_kohya
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from tests.support import webui_formulas
from tests.support.families import every_family, host_of

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
        learnt="The difference of two pictures", comment="ADDifT", report={}, tensors=tensors, resolution=(64, 64),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("lora") / "random.safetensors"
    return save_lora(path, tensors, metadata, precision="fp32")


@torch.no_grad()
def output(host: StandaloneHost, unet: UNet2DConditionModel | None = None) -> torch.Tensor:
    """What a UNet says to two noisy pictures of 128 px."""
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    cond = host.encode_prompts(["a face", "open eyes, red hair"]).crossattn
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


@pytest.mark.slow
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


def text_encoders(host: StandaloneHost) -> Iterator[nn.Module]:
    """transformers' own text models, as a pipeline of diffusers has them, in the sizes of the host's."""
    for encoder, ours in zip(host.family.text_encoders, host._texts, strict=True):
        config = CLIPTextConfig(**{**ours.config.to_dict(), "projection_dim": ours.config.hidden_size})
        yield (CLIPTextModelWithProjection if encoder.has_projection else CLIPTextModel)(config)


def changes_in(model: nn.Module, front: str, family: Family) -> dict[str, torch.Tensor]:
    """What peft's layers add to the weights of a text model, by LoRA name; `front` is its number, where it has one."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}
    return {text_kohya(front + name, family): module.get_delta_weight("ours") for name, module in layers.items()}


@every_family
@torch.no_grad()
def test_diffusers_changes_every_layer_of_the_text_models_as_we_do(family: Family, tmp_path: Path) -> None:
    host = host_of(family)
    network = LoraNetwork.create(text_layers(host), rank=RANK, alpha=ALPHA, seed=0)
    for number, layer in enumerate(network.layers.values()):
        layer.lora_up.normal_(0, 0.06, generator=torch.Generator().manual_seed(number))
    path = save_lora(tmp_path / "text.safetensors", network.tensors(), {}, precision="fp32")
    pipeline = {SD15: StableDiffusionPipeline, SDXL: StableDiffusionXLPipeline}[family]
    state, alphas = pipeline.lora_state_dict(path.parent, weight_name=path.name)
    changes = {}
    for model, prefix, front in zip(
        text_encoders(host), ("text_encoder", "text_encoder_2"), ("0.", "1."), strict=False
    ):
        pipeline.load_lora_into_text_encoder(state, alphas, model, prefix=prefix, adapter_name="ours")
        changes |= changes_in(model, front if family is SDXL else "", family)
    assert changes.keys() == network.layers.keys()
    for name, layer in network.layers.items():
        torch.testing.assert_close(changes[name], layer.delta_weight(), msg=name)


@pytest.mark.slow
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


OTHER_KINDS = {
    "DoRA": {"dora": True},
    "LoHa": {"algorithm": "loha"},
    "LoKr": {"algorithm": "lokr"},
    "LoKr by 4": {"algorithm": "lokr", "lokr_factor": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("weight", [1.0, -0.6])
def test_other_kinds_merged_as_the_webuis_merge_them_draw_the_same(
    host: StandaloneHost, tmp_path: Path, kind: str, weight: float
) -> None:
    """Over every layer of the UNet that may learn; the weights of the change are those of a trained one."""
    modules = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    network = LoraNetwork.create(modules, rank=RANK, alpha=ALPHA, seed=0, **OTHER_KINDS[kind])
    generator = torch.Generator().manual_seed(1)
    for layer in network.layers.values():
        for parameter in layer.zero_init_parameters():
            parameter.data.normal_(0, 0.08, generator=generator)
        if kind == "DoRA":
            layer.dora_scale.data *= 1 + 0.02 * torch.randn(layer.dora_scale.shape, generator=generator)
    path = save_lora(tmp_path / "random.safetensors", network.tensors(weight), {}, precision="fp32")
    merged = copy.deepcopy(host.unet)
    names = {"lora_unet_" + name.replace(".", "_"): module for name, module in merged.named_modules()}
    layers = webui_formulas.split(load_file(path))
    assert len(layers) == 278
    with torch.no_grad():
        for name, parts in layers.items():
            frozen = names[name].weight
            frozen += torch.from_numpy(webui_formulas.change(parts, frozen.double().numpy(), -0.5))
    network.multiplier = -0.5 * weight
    with network.attach():
        before_saving = output(host)
    ours, plain = through_hooks(host, path, -0.5), output(host)
    assert difference(ours, plain) > 0.03
    assert difference(before_saving, ours) < 1e-4
    assert difference(output(host, merged), ours) < 1e-4


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
@pytest.mark.parametrize(("rank", "alpha"), [(2, 1.5), (8, 8.0)])  # at 8, w2 of LoKr is whole: only peft heeds alpha
def test_pefts_layers_do_the_same(kind: str, rank: int, alpha: float) -> None:
    torch.manual_seed(0)
    modules = torch.nn.ModuleDict({"linear": torch.nn.Linear(12, 10), "conv": torch.nn.Conv2d(6, 10, 3, padding=1)})
    network = LoraNetwork.create(dict(modules.items()), rank=rank, alpha=alpha, seed=0, **OTHER_KINDS[kind])
    settings: dict[str, Any] = {"r": rank, "alpha": alpha, "target_modules": ["linear", "conv"], "init_weights": False}
    config = peft.LoHaConfig(**settings) if kind == "LoHa" else peft.LoKrConfig(**settings)
    theirs = peft.inject_adapter_in_model(config, copy.deepcopy(modules), "ours")
    for name, layer in network.layers.items():
        with torch.no_grad():
            for key, parameter in layer.named_parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
                getattr(theirs[name], key)["ours"].copy_(parameter)
    for name, x in {"linear": torch.randn(2, 5, 12), "conv": torch.randn(2, 6, 8, 8)}.items():
        with network.attach(), torch.no_grad():
            ours = modules[name](x)
        assert difference(ours, modules[name](x)) > 0.05
        torch.testing.assert_close(ours, theirs[name](x).detach(), rtol=1e-4, atol=1e-5)
