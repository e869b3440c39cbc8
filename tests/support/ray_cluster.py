"""What the tests of a Ray cluster need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def needs_ray() -> None:
    if "CI" not in os.environ:
        pytest.importorskip("ray")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
