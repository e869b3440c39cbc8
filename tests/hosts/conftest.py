"""Shared by the tests of the standalone host: the host, and the tensors of its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from lib_addift.demo.run import CHECKPOINT

if TYPE_CHECKING:
    from lib_addift.hosts.standalone import StandaloneHost


@pytest.fixture(scope="session")
def host() -> StandaloneHost:
    """One host for all tests, which only look at it: loading the model takes seconds."""
    from lib_addift.hosts.standalone import StandaloneHost  # needs diffusers, which a WebUI's Python may lack

    return StandaloneHost(CHECKPOINT, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(CHECKPOINT)
