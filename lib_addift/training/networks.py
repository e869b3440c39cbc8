"""The LoRAs of a run over the host's model: new ones, the first one of the settings, and those from tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.host import Model, lora_modules, text_layers
from lib_addift.errors import HostError, LoraFileError
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from lib_addift.lora.shift import ShiftLayer, constant_direction, is_constant, is_shiftable, outputs_of_norm
from lib_addift.training.methods import method_of

# Prompts of many kinds, so that their tokens are like those of any prompt; the second half is to check on.
_TOKEN_PROMPTS = (
    ("", "a photo of a street at night, rain", "1girl, solo, long hair, looking at viewer, smile, blue eyes",
     "a landscape with mountains, oil painting, masterpiece", "an old man with a beard, portrait, closed eyes",
     "a bowl of fruit on a wooden table, sharp focus, 85 mm", "best quality, highly detailed, face on the left",
     "a red car, flat drawing, grey background", "two children play football, open mouth, dark skin",
     "a castle on a hill, watercolour", "an empty room, black and white photograph, light from the left",
     "worst quality, blurry, bad hands, text, signature", "a robot made of glass, 3d render, green background"),
    ("a dog on the grass", "a woman in a blond wig, smiling mouth, blue background, light skin",
     "cat", "1boy, short hair, red shirt, open eyes, textured drawing", "a ship in a storm, cinematic lighting",
     "a cup of coffee beside a book", "a city seen from above, sunset, very detailed", "low quality, lowres"),
)  # fmt: skip


def start_lora(model: Model, config: TrainConfig, index: int) -> LoraNetwork:
    """The LoRA that a run begins with as its number `index`: a new one, or the first one of the settings.

    Raises LoraFileError when that one cannot be used.
    """
    if index == 0 and config.first_lora:
        return _first_lora(model, config)
    if config.algorithm == "shift":
        return _start_shift(model, config)
    modules = select_layers(model.unet, model.lora_name, layers=config.layers, blocks=config.blocks)
    if config.train_text_encoder:
        modules |= text_layers(model)
    network = LoraNetwork.create(
        modules, rank=config.rank, alpha=config.alpha, seed=config.seed, algorithm=config.algorithm,
        dora=config.dora, dropout=config.dropout, lokr_factor=config.lokr_factor,
    )  # fmt: skip
    return network.to(model.device)  # the host may keep some of its own layers elsewhere


def _start_shift(model: Model, config: TrainConfig) -> LoraNetwork:
    """An untrained shift of what attention reads. Raises HostError when the model has no such layers."""
    fitted, checked = (model.encode_prompts(prompts).float().crossattn.flatten(0, 1) for prompts in _TOKEN_PROMPTS)
    direction = constant_direction(fitted, checked)
    of_words = is_constant(direction, checked)
    chosen = select_layers(
        model.unet, model.lora_name, layers=("self_attention", "cross_attention"), blocks=config.blocks
    )
    modules = {name: module for name, module in chosen.items() if is_shiftable(name, of_words=of_words)}
    if not modules:
        raise HostError(
            f"algorithm = shift found no attention in the blocks {', '.join(config.blocks)}: choose algorithm = lora."
        )
    norms = {} if of_words else _first_norms(model.unet)
    layers = {
        name: ShiftLayer.over(module, *((fitted, direction) if of_words else outputs_of_norm(norms[module])))
        for name, module in modules.items()
    }
    return LoraNetwork(layers, modules, dropout=config.dropout).to(model.device)


def _first_norms(unet: nn.Module) -> dict[nn.Module, nn.LayerNorm]:
    """By the values' layer of each self-attention, the norm that it follows; both are called so in every WebUI."""
    blocks: list[Any] = [block for block in unet.modules() if hasattr(block, "attn1") and hasattr(block, "norm1")]
    return {block.attn1.to_v: block.norm1 for block in blocks}


def _first_lora(model: Model, config: TrainConfig) -> LoraNetwork:
    network = load_lora(model, read_lora(Path(config.first_lora))[0])
    if not method_of(config).supports.all_algorithms and not network.is_stackable:
        raise LoraFileError(
            f"first_lora = '{config.first_lora}' is no plain LoRA, which {config.method} needs: choose another."
        )
    return network


def load_lora(model: Model, tensors: Mapping[str, torch.Tensor]) -> LoraNetwork:
    """A LoRA from its tensors (kohya keys), over the model. Raises LoraFileError."""
    return LoraNetwork.over(lora_modules(model), tensors).to(model.device)
