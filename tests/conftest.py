"""Set-up of all tests: no network, one thread for each process; and fixtures."""

from __future__ import annotations

import os

import pytest
import torch

from lib_addift.demo import world

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
pytest.register_assert_rewrite("tests.support")  # so that its failed asserts show their values too
torch.set_num_threads(1)  # files of tests run side by side, one for each core


@pytest.fixture
def pair_files(tmp_path):
    """Paths of an original and a target, 64 x 64 px, in a folder of their own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = folder / "open.png", folder / "closed.png"
    for path, eyes in zip(paths, ("open", "closed"), strict=True):
        world.draw(world.Face(eyes=eyes)).save(path)
    return paths
