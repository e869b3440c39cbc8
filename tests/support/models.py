"""Ways to tell whether a model was touched, and the precisions that tests run models in."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import nn

from lib_addift.config.settings import BLOCKS, LAYER_KINDS
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Model
from lib_addift.lora.selection import layer_kind, select_layers
from tests.support.fake_unet import CONTEXT


def _computes_in_half() -> bool:
    try:
        nn.Conv2d(1, 1, 1).half()(torch.ones(1, 1, 1, 1).half())
    except RuntimeError:  # torch 2.1, A1111's
        return False
    return True


needs_half = pytest.mark.skipif(not _computes_in_half(), reason="this torch computes nothing in fp16 on the CPU")
HALF_DTYPES = [pytest.param(torch.float16, marks=needs_half), torch.bfloat16]
PRECISIONS = ["fp32", "bf16", pytest.param("fp16", marks=needs_half)]


def fingerprint(*models: nn.Module) -> dict[str, Any]:
    """Everything that must be as before after a job: each tensor's bytes and flags, each module's hooks and modes."""
    state: dict[str, Any] = {}
    for index, model in enumerate(models):
        for name, module in model.named_modules():
            hooks = (
                module._forward_hooks,
                module._forward_pre_hooks,
                module._backward_hooks,
                module._backward_pre_hooks,
            )
            modes = (module.training, getattr(module, "gradient_checkpointing", None), "forward" in vars(module))
            state[f"{index} {name}"] = (type(module), *map(len, hooks), *modes)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            flags = (tensor.dtype, tensor.device, tensor.requires_grad, tensor.grad is None)
            state[f"{index} {name}"] = (*flags, hashlib.sha256(data).hexdigest())
    return state


def latent_gradient(unet: nn.Module) -> torch.Tensor:
    """The gradient (1, 4, 8, 8) that a backward pass through `unet` brings to fixed random latents."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=generator, requires_grad=True)
    output = unet(latents, torch.tensor([500]), torch.randn(1, 5, CONTEXT, generator=generator))
    output.square().mean().backward()
    assert latents.grad is not None
    return latents.grad


def layer_counts(host: Model) -> dict[str, int]:
    """How many layers of each kind a LoRA in the whole UNet has."""
    found = select_layers(host.unet, host.lora_name, layers=LAYER_KINDS, blocks=BLOCKS)
    kinds = [layer_kind(name) for name in found]
    return {kind: kinds.count(kind) for kind in LAYER_KINDS}


def inputs(host: Model, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, Conditions]:
    latents = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return latents, torch.arange(batch) * 300 + 100, host.encode_prompts(["a face"]).expand(batch)
