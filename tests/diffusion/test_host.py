"""What every host has from the core: the check of the precision."""

from __future__ import annotations

import pytest
import torch

from lib_addift.diffusion import host as base
from lib_addift.errors import HostError


def test_a_precision_without_a_name():
    with pytest.raises(HostError, match="the model is loaded in torch.float8_e4m3fn. Choose auto, or say it loudly."):
        base.check_precision("bf16", torch.float8_e4m3fn, "say it loudly")
    base.check_precision("auto", torch.float8_e4m3fn, "")
