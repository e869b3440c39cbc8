"""Forge (main) and Forge Neo: trains the UNet of the engine that it has loaded.

Forge loads, moves and patches models in inference mode, so its weights are inference tensors, of which autograd saves
none for backward. For training the UNet is patched: ordinary tensors over the same memory replace them. It is restored
before everything that may move models: the VAE, the text model, other pictures. Where the text model is trained too,
both are patched together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from modules import sd_models
from torch import nn

from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import HostError
from lib_addift.families import SD15, SDXL
from lib_addift.hosts import patching
from lib_addift.hosts.flags import ALL_ON_THE_GPU, FP16, FP32, known_flag
from lib_addift.hosts.picture_sizes import vector_with_sizes
from lib_addift.hosts.prompt_tag.webui import remove_timed_loras
from lib_addift.hosts.webui import WebUIHost, check_kind, lora_networks

T = TypeVar("T")

# The attention functions of Forge that training can use. Of the others some keep all scores for backward, at 512 px
# three times as much as all other activations, and some (sage) have no backward at all.
_TRAINABLE_ATTENTION = ("attention_xformers", "attention_pytorch")
_NEO_CARDS = {"SD1": "sd", "SDXL": "xl"}  # what Forge Neo has on cards; it has no word for SD2
_TRAINING_MEMORY = 3 * 2**30  # bytes that Forge is asked to keep free beside the UNet: one step at 512 px


class ForgeHost(WebUIHost):
    """Implements `Host` on Forge and Forge Neo."""

    name = "forge"

    def __init__(self) -> None:
        self._patched: ExitStack | None = None  # restores the UNet; None while it is not patched
        self._has_text = False  # whether the text model is patched as well

    @property
    def _model(self) -> Any:
        """The engine; before anything is loaded an empty stand-in of Forge's."""
        return sd_models.model_data.get_sd_model()

    @property
    def memory(self) -> ModuleType:
        """Forge's memory management."""
        from backend import memory_management

        module: ModuleType = memory_management
        return module

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = self._patcher.model.diffusion_model
        return unet

    @property
    def text_model(self) -> nn.Module:
        models = self._clip.cond_stage_model
        if self.family is SDXL:
            return nn.ModuleList([models.clip_l.transformer, models.clip_g.transformer])
        text: nn.Module = models.clip_l.transformer
        return text

    @property
    def device(self) -> torch.device:
        device: torch.device = self._patcher.load_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._patcher.model.computation_dtype
        return dtype

    @property
    def _options(self) -> object:
        """The parsed flags that choose devices and number formats."""
        from backend.args import args

        return args

    @property
    def precision_flags(self) -> str:
        return " or ".join(known_flag(self._options, names) for names in (FP32, FP16))

    @property
    def card_versions(self) -> Mapping[str, str]:
        words = getattr(sys.modules.get("network"), "SD_VERSION", ())  # of the built-in Lora extension; Neo's alone
        return {base: word for base, word in _NEO_CARDS.items() if word in words}

    @property
    def prediction_type(self) -> str:
        return str(self._patcher.model.predictor.prediction_type)

    @property
    def zero_snr(self) -> bool:
        """As the WebUI's setting, or as Forge Neo has read it off the file."""
        return super().zero_snr or bool(getattr(getattr(self._model, "model_config", None), "ztsnr", False))

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        return self._schedule(self._patcher.model.predictor.alphas_cumprod).clone()  # the clone is no inference tensor

    @property
    def _patcher(self) -> Any:
        """The patcher of the UNet without any LoRA."""
        return self._model.forge_objects_original.unet

    @property
    def _clip(self) -> Any:
        """The text model without any LoRA, with its patcher."""
        return self._model.forge_objects_original.clip

    def _checkpoint_info(self) -> Any:
        """What is chosen on the page; it is loaded when it is first needed."""
        return sd_models.model_data.forge_loading_parameters.get("checkpoint_info")

    def _load(self) -> Any:
        """The engine of the chosen checkpoint; loads it if that was not done yet."""
        if self._checkpoint_info() is None:
            raise HostError("no checkpoint is chosen: choose an SD1.5 or SDXL checkpoint at the top of the page.")
        model, _ = sd_models.forge_model_reload()
        return model

    @contextmanager
    def _trainable_model(self) -> Iterator[None]:
        model = self._load()
        _check(model)
        remove_timed_loras()
        objects = model.forge_objects
        try:
            # The text model and the VAE without LoRAs too: pictures put theirs into `forge_objects`.
            model.forge_objects = model.forge_objects_original.shallow_copy()
            self._patch()
            with self._trainable_attention():
                yield
        finally:
            self._restore()
            model.forge_objects = objects

    @property
    def _attention(self) -> tuple[ModuleType, str, ModuleType]:
        """The module of the UNet's code, the name of the attention function in it, and the module of all of them."""
        from backend import attention
        from backend.nn import unet

        return unet, "attention_function", attention

    @contextmanager
    def _trainable_attention(self) -> Iterator[None]:
        code, name, functions = self._attention
        with ExitStack() as stack:
            if getattr(code, name).__name__ not in _TRAINABLE_ATTENTION:
                stack.enter_context(patching.replaced(code, name, functions.attention_pytorch))
            yield

    def _patch(self, *, with_text: bool = False) -> None:
        """Load the UNet without LoRAs and patch it for autograd; with `with_text` the text model too.

        Does nothing where they are patched already. Both are loaded in one call: in two, loading one might unload the
        other.
        """
        if self._patched is not None and (self._has_text or not with_text):
            return
        self._restore()
        with torch.inference_mode():
            # Undoes merged LoRAs as well: these patchers have none.
            patchers = [self._patcher, self._clip.patcher] if with_text else [self._patcher]
            self.memory.load_models_gpu(patchers, memory_required=_TRAINING_MEMORY)
        with ExitStack() as stack:
            for model in [self.unet, self.text_model] if with_text else [self.unet]:
                stack.enter_context(patching.without_inference_tensors(model))
                stack.enter_context(patching.frozen(model))
            stack.enter_context(patching.safe_residual_sums(self.unet))
            self._patched, self._has_text = stack.pop_all(), with_text

    def _restore(self) -> None:
        if self._patched is not None:
            stack, self._patched = self._patched, None
            stack.close()

    def _in_inference_mode(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may load or move models: done in inference mode, with the UNet restored."""
        self._restore()
        with torch.inference_mode():
            return work()

    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(images).float() / 255  # (B, H, W, 3), as Forge's VAE takes it
        return self._in_inference_mode(lambda: self._encode(pixels)).clone().to(self.device)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """The mean of the VAE's posterior: Forge's own `encode` would draw a sample. One picture at a time."""
        vae = self._model.forge_objects.vae
        model, dtype = vae.first_stage_model, vae.vae_dtype
        pictures = (pixels.movedim(-1, 1) * 2 - 1).to(vae.device)
        memory_required = vae.memory_used_encode(pictures[:1].shape, dtype)
        self.memory.load_models_gpu([vae.patcher], memory_required=memory_required)
        means = _posterior_means(model, pictures.to(dtype))
        if not means.isfinite().all():  # both families' VAEs overflow in fp16
            with patching.in_fp32(model):
                means = _posterior_means(model, pictures.float())
        return self._scaled(means)

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of the VAE as the UNet expects them."""
        scaled: torch.Tensor = self._model.forge_objects.vae.first_stage_model.process_in(latents)
        return scaled

    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        # (B, 3, H, W) in -1..1
        pixels = self._in_inference_mode(lambda: self._model.decode_first_stage(latents.float()))
        images = ((pixels.clone().float() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        result: np.ndarray = images.permute(0, 2, 3, 1).cpu().numpy()
        return result

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        cond = self._conditions(self._in_inference_mode(lambda: self._encode_prompts(list(prompts))))
        return cond.repeat(1).float().to(self.device)  # `repeat` copies: what was made in inference mode is of no use

    def _encode_prompts(self, prompts: list[str]) -> Any:
        self._model.set_clip_skip(self.clip_skip)
        return self._model.get_learned_conditioning(prompts)

    def encode_prompts_with_grad(self, prompts: Sequence[str]) -> Conditions:
        self._patch(with_text=True)
        return self._run_text(list(prompts)).float()

    def _run_text(self, prompts: list[str]) -> Conditions:
        """As `_encode_prompts`, without inference mode and without moving any model."""
        place = self._clip.patcher.load_device
        if place.type != self.device.type:
            raise HostError(
                f"the WebUI runs the text model on {place} and the UNet on {self.device}, and they must learn in one "
                "place: set train_text_encoder = false, or start the WebUI with "
                f"{known_flag(self._options, ALL_ON_THE_GPU)}."
            )
        return self._run_engines(prompts)

    def _run_engines(self, prompts: list[str]) -> Conditions:
        model = self._model
        model.set_clip_skip(self.clip_skip)
        if self.family is SD15:
            return Conditions(model.text_processing_engine(prompts))
        first = model.text_processing_engine_l(prompts)
        second, pooled = model.text_processing_engine_g(prompts)
        return Conditions(torch.cat([first, second], dim=2), pooled)

    def _run_unet(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        self._patch()
        y = {} if cond.vector is None else {"y": vector_with_sizes(cond.vector, latents).to(self.dtype)}
        context = cond.crossattn.to(self.dtype)
        output: torch.Tensor = self.unet(
            latents.to(self.dtype), timesteps.float(), context=context, transformer_options={}, **y
        )
        return output

    def _forget(self, path: Path) -> None:
        read = lora_networks().load_lora_state_dict
        if hasattr(read, "cache_clear"):  # Forge keeps the files that it has read, Forge Neo does not
            read.cache_clear()
        if hasattr(self._model, "forge_objects_original"):
            self._forget_merged(self._model)

    def _forget_merged(self, model: Any) -> None:
        """Make the next picture choose and merge its LoRAs anew, though their names and weights are the same."""
        model.current_lora_hash = "stale"
        objects = model.forge_objects_original
        for patcher in (objects.unet, objects.clip.patcher):
            if hasattr(patcher, "lora_loader"):  # Forge's; in Forge Neo each choice of LoRAs patches a fresh clone
                patcher.lora_loader.loaded_hash = "stale"


def _posterior_means(vae: Any, pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in -1..1 -> the unscaled latents, float32. One picture at a time."""
    means = []
    for picture in pictures.split(1):
        moments = vae.encoder(picture)
        moments = moments if vae.quant_conv is None else vae.quant_conv(moments)
        means.append(moments.chunk(2, dim=1)[0].float())
    return torch.cat(means)


def _check(model: Any) -> None:
    """Raises HostError when `model` cannot be trained."""
    is_known = getattr(model, "is_sd1", False) or getattr(model, "is_sdxl", False)
    check_kind({f"of the kind {type(model).__name__}": not is_known or "Refiner" in type(model).__name__})
    channels = model.forge_objects_original.unet.model.diffusion_model.in_channels
    check_kind({f"an inpainting or editing model ({channels} input channels)": channels != 4})
