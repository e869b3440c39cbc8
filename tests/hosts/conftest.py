"""Which WebUIs the gate tries with SDXL; and for the tests of the standalone host, the host and its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from lib_addift.demo.run import CHECKPOINT

if TYPE_CHECKING:
    from lib_addift.hosts.standalone import StandaloneHost


@pytest.hookimpl(tryfirst=True)  # before the long ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With SDXL, the two in which it differs most: A1111, which has models of its own for it, and Forge Neo."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and callspec.params.get("webui") in {"forge SDXL", "reforge SDXL"}:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def host() -> StandaloneHost:
    """One host for all tests, which only look at it: loading the model takes seconds."""
    from lib_addift.hosts.standalone import StandaloneHost  # needs diffusers, which a WebUI's Python may lack

    return StandaloneHost(CHECKPOINT, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(CHECKPOINT)
