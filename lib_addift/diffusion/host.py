"""What the core asks of a place where a model is loaded: the model, the folder of LoRAs, and a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from lib_addift.diffusion.conditions import Conditions
from lib_addift.dtypes import DTYPES
from lib_addift.errors import HostError
from lib_addift.families import Family


def check_precision(precision: str, dtype: torch.dtype, remedy: str) -> None:
    """Raises HostError when the model, loaded in `dtype`, does not compute in the precision that was asked for.

    `remedy` says, in the host's own words, how the model is loaded in another one.
    """
    if precision != "auto" and DTYPES[precision] is not dtype:
        loaded = next((name for name, known in DTYPES.items() if known is dtype), str(dtype))
        raise HostError(
            f"precision = {precision} cannot be had: the model is loaded in {loaded}. Choose auto, or {remedy}."
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


class Model(Protocol):
    """A diffusion model that is loaded: UNet, text model, VAE and noise schedule.

    Without `exclusive()` only `model_title`, `clip_skip`, `lora_name` and `text_lora_name` can be used, and once a
    model is loaded `unet` and `text_model`. Everything else needs `exclusive()`.
    """

    @property
    def model_title(self) -> str:
        """The checkpoint's name, also before it is loaded."""
        ...

    @property
    def model_hash(self) -> str:
        """sha256 of the checkpoint's bytes, hex; empty when unknown."""
        ...

    @property
    def family(self) -> Family:
        """What kind of model it is: SD1.5 or SDXL."""
        ...

    @property
    def prediction_type(self) -> str:
        """'epsilon' or 'v_prediction'."""
        ...

    @property
    def zero_snr(self) -> bool:
        """Whether the noise schedule ends in pure noise (zero terminal SNR)."""
        ...

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """(1000,) float32; of a schedule that ends in pure noise the last value is nearly 0."""
        ...

    @property
    def latent_channels(self) -> int:
        """C, the channels of the latents."""
        ...

    @property
    def picture_side(self) -> int | None:
        """px a side of the pictures that the model was trained on; None where that is not known."""
        ...

    @property
    def pixels_per_latent(self) -> int:
        """P, the width and height in px of the square that one latent pixel stands for."""
        ...

    @property
    def unet(self) -> nn.Module:
        """The UNet that is loaded; its modules get hooks, never new weights."""
        ...

    @property
    def text_model(self) -> nn.Module:
        """The CLIP text model that is loaded, or a list of two; their modules get hooks, never new weights."""
        ...

    @property
    def clip_skip(self) -> int:
        """Which of the text model's last layers gives the conditions: 1 = the last one."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the UNet computes, and where latents and conditions are."""
        ...

    @property
    def needs_loss_scaling(self) -> bool:
        """Whether gradients pass through fp16."""
        ...

    def exclusive(self, *, precision: str = "auto") -> AbstractContextManager[None]:
        """Lock the model for the caller: frozen, usable for autograd, on its device. On exit it is restored.

        Raises HostError when there is no model that can be trained, or when it does not compute in `precision`.
        """
        ...

    def lora_name(self, module_name: str) -> str:
        """'lora_unet_...' for a module of `unet`."""
        ...

    def text_lora_name(self, module_name: str) -> str:
        """'lora_te_...' for a module of `text_model`; '' where LoRA files have no place for it."""
        ...

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        """(B, H, W, 3) uint8 -> (B, C, H/P, W/P) float32 latents: the posterior's mean, scaled for the UNet."""
        ...

    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        """(B, C, h, w) latents, scaled as the UNet expects -> (B, P*h, P*w, 3) uint8."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """The float32 conditions of B prompts, without gradients.

        77 tokens; and 77 more for every 75 that the longest prompt has beyond 75. Shorter prompts are filled up with
        the conditions of the empty prompt.
        """
        ...

    def encode_prompts_with_grad(self, prompts: Sequence[str]) -> Conditions:
        """The same conditions, through which gradients reach hooks on the layers of `text_model`.

        Each call of such a layer sees all prompts as one batch, so that a LoRA can have one multiplier per prompt.
        Call it before `predict_noise` of the same backward pass: with little memory the host may have to move the
        text model and the UNet to the device together. Raises HostError where the text model cannot be trained.
        """
        ...

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        """The UNet's epsilon (B, C, h, w), float32, for noisy latents of that shape and timesteps (B,).

        The output of a v-prediction model is converted.
        """
        ...


class LoraLibrary(Protocol):
    """The folder of LoRA files. `refresh_loras` needs the model's lock."""

    @property
    def lora_dir(self) -> Path:
        """Where LoRAs are saved."""
        ...

    @property
    def card_versions(self) -> Mapping[str, str]:
        """What the host calls the base models SD1, SD2 and SDXL on the card of a LoRA, where it is another word."""
        ...

    def lora_names(self) -> list[str]:
        """The LoRAs that a tag can name."""
        ...

    def refresh_loras(self, path: Path) -> None:
        """Make the host use a LoRA file that has appeared or changed in its next picture.

        Called while the model's lock is held, by a training run or by a picture that is about to be drawn.
        """
        ...


class Display(Protocol):
    """What shows the work to a person. Both are called outside of `exclusive()` too."""

    def report(self, text: str, done: int, total: int) -> None:
        """Show in the host's own progress display, if it has one, that `done` of `total` steps of `text` are done."""
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
        """A picture (height, width, 3) uint8 from the host's own pipeline, with the `<lora:...>` tags of the prompt.

        It waits for the model's lock, so it must not be called inside `exclusive()`.
        """
        ...


class Host(Model, LoraLibrary, Display, Protocol):
    """A WebUI, or the program without one: a model, a folder of LoRAs and a display."""

    @property
    def name(self) -> str:
        """'a1111', 'forge', 'reforge' or 'standalone'."""
        ...


def lora_modules(model: Model) -> dict[str, nn.Module]:
    """All modules that a LoRA file can name, of the UNet and of the text model, by that name."""
    modules = {model.lora_name(name): module for name, module in model.unet.named_modules()}
    modules |= {model.text_lora_name(name): module for name, module in model.text_model.named_modules()}
    modules.pop("", None)
    return modules


def text_layers(model: Model) -> dict[str, nn.Module]:
    """The text model's layers that can be trained, by LoRA name, in the model's own order."""
    named = {model.text_lora_name(name): module for name, module in model.text_model.named_modules()}
    return {name: module for name, module in named.items() if name}
