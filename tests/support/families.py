"""A small checkpoint of each family, for what must hold for all of them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
import torch

from lib_addift.demo.run import CHECKPOINT
from lib_addift.families import FAMILIES, SD15, Family

every_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


@functools.cache
def checkpoint_of(family: Family) -> Path:
    """The bundled checkpoint of SD1.5; of SDXL one with random weights, which is written once for each process."""
    if family is SD15:
        return CHECKPOINT
    from lib_addift.experiments.world_checkpoint import build_models, save_checkpoint  # needs diffusers

    torch.manual_seed(0)
    models = build_models(family)
    for name, parameter in models.unet.named_parameters():
        if name.endswith(("proj_out.weight", "conv2.weight", "add_embedding.linear_1.weight")):  # zeros, at first
            torch.nn.init.normal_(parameter, std=0.5 / parameter[0].numel() ** 0.5)
    path = Path(tempfile.mkdtemp()) / f"random_{family}.safetensors"
    save_checkpoint(path, models, {})
    return path


@functools.cache
def host_of(family: Family):
    """The standalone host of a family; tests only look at it."""
    from lib_addift.hosts.standalone import StandaloneHost

    return StandaloneHost(checkpoint_of(family), device="cpu", precision="fp32")
