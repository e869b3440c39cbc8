"""The architecture of the bundled model, and the file that it is saved to."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from lib_addift.demo.run import CHECKPOINT
from lib_addift.experiments.world_checkpoint import build_models, save_checkpoint


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - it is no dict


def test_a_new_model_is_saved_in_the_layout_of_the_bundled_one(tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    models = build_models()
    save_checkpoint(path, models, {"made": "by a test"})
    assert _shapes(path) == _shapes(CHECKPOINT)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "made": "by a test"}
        saved = file.get_tensor("model.diffusion_model.input_blocks.0.0.weight")
    assert torch.equal(saved, models.unet.conv_in.weight.half())
