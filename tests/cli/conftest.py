"""Where the commands write, and a host without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.hosts import standalone
from tests.support.fake_host import FakeHost


@pytest.fixture
def lora_dir(tmp_path: Path) -> Path:
    return tmp_path / "Lora"


@pytest.fixture
def fake_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line without Stable Diffusion, for what does not depend on the model."""
    monkeypatch.setattr(
        standalone, "StandaloneHost", lambda _checkpoint, *, lora_dir, device, precision, clip_skip: FakeHost(lora_dir)
    )
