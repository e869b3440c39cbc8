"""A model that paints one known picture, and a LoRA that moves it by a known amount."""

from __future__ import annotations

import torch
from torch import nn

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.schedule import scaled_linear_alphas_cumprod
from lib_addift.lora.names import kohya
from lib_addift.lora.network import LoraLayer, LoraNetwork
from tests.support.fake_host import FakeHost


class PainterHost(FakeHost):
    """A model that sees one picture in whatever it is shown, moved by what the LoRA adds: any sampler ends just there.

    The picture is none of the pair's, as noising loses much of a real one. The LoRA joins the one layer of the UNet,
    which says nothing without it.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.unet = nn.ModuleDict({"canvas": nn.Linear(1, size, bias=False)})
        nn.init.zeros_(self.unet["canvas"].weight)
        self.unet.requires_grad_(False)
        self.passes = 0  # samples that went through the model
        self.seen = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        self.passes += len(latents)
        moved = self.unet["canvas"](torch.ones(len(latents), 1)).view(latents.shape)
        abar = scaled_linear_alphas_cumprod()[timesteps].view(-1, 1, 1, 1)
        return (latents - abar.sqrt() * (self.seen + moved)) / (1 - abar).sqrt()


def painting_lora(host: PainterHost, learnt: torch.Tensor) -> LoraNetwork:
    """A LoRA that adds `learnt` (1, C, h, w) to what the model paints, times its multiplier."""
    name = kohya("canvas")
    layer = LoraLayer(torch.ones(1, 1), learnt.reshape(-1, 1), alpha=1.0, conv=None)
    return LoraNetwork({name: layer}, {name: host.unet["canvas"]})
