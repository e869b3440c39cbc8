"""What the core asks of a host. Everything model-specific lives behind this protocol."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn


class Host(Protocol):
    """A place where an SD1.x model is loaded. All methods but the plain facts are called inside `exclusive()`."""

    name: str
    model_title: str
    model_hash: str  # sha256 of the checkpoint's bytes, hex; empty when unknown
    prediction_type: str  # 'epsilon' or 'v_prediction'
    alphas_cumprod: torch.Tensor  # (1000,) float32
    lora_dir: Path

    @property
    def unet(self) -> nn.Module:
        """The UNet that is loaded; its modules get hooks, never new weights."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients pass through fp16."""
        ...

    def exclusive(self, *, gradient_checkpointing: bool = False) -> AbstractContextManager[None]:
        """The model for ourselves: frozen, usable for autograd, on its device; on leaving everything is as it was."""
        ...

    def lora_name(self, module_name: str) -> str:
        """'lora_unet_...' for a module of `unet`."""
        ...

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        """(B, H, W, 3) uint8 -> (B, 4, H/8, W/8) float32 latents: the posterior's mean, scaled for the UNet."""
        ...

    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        """(B, 4, h, w) latents -> (B, 8h, 8w, 3) uint8."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """(B, tokens, width) float32 conditions."""
        ...

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """The UNet's epsilon, float32, shape of `latents`; a v-prediction model's output is converted."""
        ...

    def refresh_loras(self, path: Path) -> None:
        """A LoRA file has appeared or changed: make the host use it in its next picture."""
        ...
