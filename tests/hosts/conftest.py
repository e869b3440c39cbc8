"""Which WebUIs the gate tries with SDXL; and for the tests of the standalone host, the host and its checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from lib_addift.demo.run import CHECKPOINT, CHECKPOINTS

if TYPE_CHECKING:
    from lib_addift.hosts.standalone import StandaloneHost


_LONG_WITH_SDXL = {
    "test_an_error_anywhere_leaves_the_model_as_it_was",
    "test_a_run_that_teaches_the_text_model_too_leaves_both_models_as_they_were",
}


@pytest.hookimpl(tryfirst=True)  # before the long ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With SDXL, the two in which it differs most, A1111 and Forge Neo, but for the tests that take longest."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        webui = str(callspec.params.get("webui", "")) if callspec else ""
        if webui in {"forge SDXL", "reforge SDXL"} or ("SDXL" in webui and item.originalname in _LONG_WITH_SDXL):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def hosts() -> Callable[[str], StandaloneHost]:
    """One host of each family for all tests, which only look at it: loading the model takes seconds."""
    from lib_addift.hosts.standalone import StandaloneHost  # needs diffusers, which a WebUI's Python may lack

    return functools.cache(lambda family: StandaloneHost(CHECKPOINTS[family], device="cpu", precision="fp32"))


@pytest.fixture(scope="session")
def host(hosts: Callable[[str], StandaloneHost]) -> StandaloneHost:
    """With the SD1.5 model."""
    return hosts("sd15")


@pytest.fixture(scope="session", params=["sd15", pytest.param("sdxl", marks=pytest.mark.long)])
def any_host(hosts: Callable[[str], StandaloneHost], request: pytest.FixtureRequest) -> StandaloneHost:
    """With the model of one family after the other: for what must hold with all of them."""
    return hosts(request.param)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(CHECKPOINT)
