"""What the core asks of a host. Everything model-specific lives behind this protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from lib_addift.dtypes import DTYPES
from lib_addift.errors import HostError


def check_precision(precision: str, dtype: torch.dtype) -> None:
    """Raises HostError when the model, loaded in `dtype`, does not compute in the precision that was asked for."""
    if precision != "auto" and DTYPES[precision] is not dtype:
        loaded = next((name for name, known in DTYPES.items() if known is dtype), str(dtype))
        raise HostError(
            f"precision = {precision} cannot be had: the model is loaded in {loaded}. Choose auto, or start with "
            "another precision (A1111: --no-half; Forge: --all-in-fp32 or --all-in-fp16)."
        )


def to_epsilon(
    output: torch.Tensor, latents: torch.Tensor, alphas_cumprod: torch.Tensor, prediction_type: str
) -> torch.Tensor:
    """The UNet's output as epsilon. `alphas_cumprod` is (B,), one for each sample's timestep.

    Source of epsilon from v: Salimans & Ho 2022, appendix D.
    """
    if prediction_type == "epsilon":
        return output
    abar = alphas_cumprod.view(-1, 1, 1, 1)
    return abar.sqrt() * output + (1 - abar).sqrt() * latents


class Host(Protocol):
    """A place where an SD1.x model is loaded.

    Without `exclusive()`: `name`, `lora_dir`, `model_title`, `clip_skip`, `lora_name`, `text_lora_name`, `report`,
    `lora_names`, `draw`; and, once a model is loaded, `unet` and `text_model`. All else inside it.
    """

    @property
    def name(self) -> str: ...

    @property
    def lora_dir(self) -> Path: ...

    @property
    def model_title(self) -> str:
        """The checkpoint's name, also before it is loaded."""
        ...

    @property
    def model_hash(self) -> str:
        """sha256 of the checkpoint's bytes, hex; empty when unknown."""
        ...

    @property
    def prediction_type(self) -> str:
        """'epsilon' or 'v_prediction'."""
        ...

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """(1000,) float32."""
        ...

    @property
    def unet(self) -> nn.Module:
        """The UNet that is loaded; its modules get hooks, never new weights."""
        ...

    @property
    def text_model(self) -> nn.Module:
        """The CLIP text model that is loaded; its modules get hooks, never new weights."""
        ...

    @property
    def clip_skip(self) -> int:
        """Which of the text model's last layers gives the conditions: 1 = the last one."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients pass through fp16."""
        ...

    def exclusive(self, *, precision: str = "auto") -> AbstractContextManager[None]:
        """The model for ourselves: frozen, usable for autograd, on its device; on leaving everything is as it was.

        Raises HostError when there is no such model, or when it does not compute in `precision`.
        """
        ...

    def lora_name(self, module_name: str) -> str:
        """'lora_unet_...' for a module of `unet`."""
        ...

    def text_lora_name(self, module_name: str) -> str:
        """'lora_te_...' for a module of `text_model`; '' where LoRA files have no place for it."""
        ...

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        """(B, H, W, 3) uint8 -> (B, 4, H/8, W/8) float32 latents: the posterior's mean, scaled for the UNet."""
        ...

    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        """(B, 4, h, w) latents -> (B, 8h, 8w, 3) uint8."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """(B, tokens, width) float32 conditions.

        77 tokens; and 77 more for every 75 that the longest prompt has beyond 75. Shorter prompts then have the
        condition of the empty prompt behind theirs.
        """
        ...

    def encode_prompts_with_grad(self, prompts: Sequence[str]) -> torch.Tensor:
        """The same conditions, through which gradients reach hooks on the layers of `text_model`.

        These layers see all the prompts in each of their calls, so that a LoRA's multiplier can be one for each prompt.
        To be called before `predict_noise` of the same backward pass: the models may have to take turns in memory.
        Raises HostError where the text model cannot learn.
        """
        ...

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        """The UNet's epsilon, float32, shape of `latents`; a v-prediction model's output is converted."""
        ...

    def report(self, text: str, done: int, total: int) -> None:
        """Show how far a job is in the host's own progress display, if it has one."""
        ...

    def lora_names(self) -> list[str]:
        """The LoRAs that a tag can name."""
        ...

    def draw(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        seed: int = 1,
        steps: int = 20,
        cfg_scale: float = 7.0,
        width: int = 512,
        height: int = 512,
    ) -> np.ndarray:
        """A picture (H, W, 3) uint8 from the host's own pipeline; `<lora:...>` in the prompt acts.

        Takes its turn with other pictures, so it is called outside `exclusive()`.
        """
        ...

    def refresh_loras(self, path: Path) -> None:
        """A LoRA file has appeared or changed: make the host use it in its next picture.

        Called while the host's lock is held, by a training run or by a picture that is about to be drawn.
        """
        ...


def lora_modules(host: Host) -> dict[str, nn.Module]:
    """All modules that a LoRA file can name, of the UNet and of the text model, by that name."""
    modules = {host.lora_name(name): module for name, module in host.unet.named_modules()}
    modules |= {host.text_lora_name(name): module for name, module in host.text_model.named_modules()}
    modules.pop("", None)
    return modules


def text_layers(host: Host) -> dict[str, nn.Module]:
    """The text model's layers that can learn, by LoRA name, in the model's own order."""
    named = {host.text_lora_name(name): module for name, module in host.text_model.named_modules()}
    return {name: module for name, module in named.items() if name}


def encode_to_length(
    encode: Callable[[Sequence[str]], torch.Tensor], prompts: Sequence[str], tokens: int
) -> torch.Tensor:
    """Conditions of at least so many `tokens`, to stand beside those of another call.

    `encode` is a host's `encode_prompts` or `encode_prompts_with_grad`. What is missing is filled up with the empty
    prompt, as the host does within a call.
    """
    cond = encode(prompts)
    if cond.shape[1] >= tokens:
        return cond
    empty = encode([""] * len(prompts))  # each under its own multiplier, where a LoRA acts
    return torch.cat([cond, *[empty] * ((tokens - cond.shape[1]) // empty.shape[1])], dim=1)
