"""The LoRAs of a run over the host's model: new ones, the first one of the settings, and those from tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.host import Model, lora_modules, text_layers
from lib_addift.errors import LoraFileError
from lib_addift.lora.file import read_lora
from lib_addift.lora.network import LoraNetwork, select_layers
from lib_addift.training.methods import method_of


def start_lora(model: Model, config: TrainConfig, index: int) -> LoraNetwork:
    """The LoRA that a run begins with as its number `index`: a new one, or the first one of the settings.

    Raises LoraFileError when that one cannot be used.
    """
    if index == 0 and config.first_lora:
        return _first_lora(model, config)
    modules = select_layers(model.unet, model.lora_name, layers=config.layers, blocks=config.blocks)
    if config.train_text_encoder:
        modules |= text_layers(model)
    network = LoraNetwork.create(
        modules, rank=config.rank, alpha=config.alpha, seed=config.seed, algorithm=config.algorithm,
        dora=config.dora, dropout=config.dropout, lokr_factor=config.lokr_factor,
    )  # fmt: skip
    return network.to(model.device)  # the host may keep some of its own layers elsewhere


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
