"""What the tests share: no network, and a way to tell whether a model was touched."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import lib_addift.training.finish
import lib_addift.training.run
from lib_addift.demo import world
from lib_addift.evaluation.round_trip import RoundTrip

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
torch.set_num_threads(1)  # files of tests run side by side, one for each core


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


def skip_proof_and_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end at once after their last step: with a proof that is made up, and empty pictures."""
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: RoundTrip(0.8, 1.0, ()))
    for module, drawing in (
        (lib_addift.training.run, "preview_strip"),
        (lib_addift.training.finish, "preview_strip"),
        (lib_addift.training.finish, "round_trip_pictures"),
    ):
        monkeypatch.setattr(module, drawing, lambda *_: Image.new("RGB", (64, 64)))


@pytest.fixture
def pair_files(tmp_path):
    """Paths of an original and a target, 64 x 64 px, in a folder of their own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = folder / "open.png", folder / "closed.png"
    for path, eyes in zip(paths, ("open", "closed"), strict=True):
        world.draw(world.Face(eyes=eyes)).save(path)
    return paths
