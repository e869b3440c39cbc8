"""SDXL's conditions on sizes, against diffusers'."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import Timesteps

from lib_addift.hosts.picture_sizes import picture_sizes, vector_with_sizes


def test_a_picture_is_whole_and_drawn_at_its_own_size() -> None:
    sizes = picture_sizes(torch.zeros(2, 4, 16, 24))
    assert sizes.tolist() == [[128, 192, 0, 0, 128, 192]] * 2


def test_the_vector_is_diffusers_own() -> None:
    latents, pooled = torch.zeros(2, 4, 128, 96), torch.randn(2, 20)
    embedded = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)(picture_sizes(latents).flatten())
    expected = torch.cat([pooled, embedded.view(2, -1)], dim=1)
    torch.testing.assert_close(vector_with_sizes(pooled, latents), expected)
