"""The VAE's stage: it learns, and its latents come out at SD's scale with the same reconstructions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_addift.demo.run import CHECKPOINT
from lib_addift.experiments.world_checkpoint import build_vae
from lib_addift.experiments.worlds.data import WORLDS
from lib_addift.experiments.worlds.loop import SavedState
from lib_addift.experiments.worlds.precision import mixed_precision
from lib_addift.experiments.worlds.vae import encode, train_vae
from lib_addift.hosts.checkpoint import read_checkpoint

SCALE = 0.18215


@pytest.fixture
def pictures() -> torch.Tensor:
    faces = WORLDS["faces"]
    return faces.pictures(faces.subjects(6, seed=2))


@pytest.mark.slow
def test_latents_come_to_scale_and_reconstructions_stay(pictures: torch.Tensor, tmp_path: Path) -> None:
    vae = build_vae()
    vae.load_state_dict(read_checkpoint(CHECKPOINT).vae)
    with torch.no_grad():
        # As of a VAE that has just been trained: its latents have any mean and spread.
        vae.quant_conv.weight *= 3
        vae.quant_conv.bias += 2
        before = vae.decode(encode(vae, pictures)).sample
        train_vae(vae, pictures, SavedState(tmp_path / "state.pt"), steps=0, batch=2, seed=1, scale=SCALE)
        latents = encode(vae, pictures)
        after = vae.decode(latents).sample
    scaled = latents * SCALE
    assert scaled.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert torch.allclose(scaled.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(before, after, atol=1e-3)


@pytest.mark.slow
def test_it_learns_to_reconstruct(pictures: torch.Tensor) -> None:
    torch.manual_seed(0)
    vae = build_vae()
    train_vae(vae, pictures, SavedState(None), steps=1, batch=2, seed=1, scale=SCALE)
    first = _error(vae, pictures)
    train_vae(vae, pictures, SavedState(None), steps=12, batch=2, seed=1, scale=SCALE)
    assert _error(vae, pictures) < 0.9 * first


@torch.no_grad()
def _error(vae: torch.nn.Module, pictures: torch.Tensor) -> float:
    return float((vae.decode(encode(vae, pictures)).sample - (pictures.float() / 127.5 - 1)).abs().mean())


def test_mixed_precision_computes_the_same_nearly_and_ends() -> None:
    torch.manual_seed(0)
    vae, x = build_vae().eval(), torch.randn(1, 3, 64, 64)
    functions = torch.nn.functional.group_norm, torch.nn.functional.scaled_dot_product_attention
    with torch.no_grad():
        exact = vae.encode(x).latent_dist.mean
        with mixed_precision():
            mixed = vae.encode(x).latent_dist.mean
    assert mixed.dtype == torch.bfloat16
    assert (mixed - exact).abs().max() < 0.1 * exact.abs().max()
    assert functions == (torch.nn.functional.group_norm, torch.nn.functional.scaled_dot_product_attention)
