"""AUTOMATIC1111's WebUI: trains the LatentDiffusion model that it has loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ldm.modules.attention import CrossAttention
from modules import devices, sd_hijack, sd_hijack_optimizations, sd_models, sd_unet, shared
from modules.hypernetworks import hypernetwork
from torch import nn

from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import HostError
from lib_addift.families import SDXL
from lib_addift.hosts import patching
from lib_addift.hosts.open_clip import parts_of
from lib_addift.hosts.picture_sizes import vector_with_sizes
from lib_addift.hosts.prompt_tag.webui import remove_timed_loras
from lib_addift.hosts.webui import WebUIHost, check_kind, lora_networks
from lib_addift.lora import names

# The attention functions of the WebUI that keep no scores for backward. Its default on NVIDIA, Doggettx, does: at
# 512 px they are three times as large as all other activations.
_FUSED_ATTENTION = ("xformers", "sdp", "sdp-no-mem")


class A1111Host(WebUIHost):
    """Implements `Host` on AUTOMATIC1111's WebUI."""

    name = "a1111"

    @property
    def _model(self) -> Any:
        return shared.sd_model

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = self._model.model.diffusion_model
        return unet

    @property
    def text_model(self) -> nn.Module:
        # `wrapped` is CLIP as the checkpoint has it; around it the WebUI reads its own syntax and cuts into chunks.
        if self.family is SDXL:
            first, second = self._text_encoders
            return nn.ModuleList([first.wrapped.transformer, second.wrapped.model])
        text: nn.Module = self._model.cond_stage_model.wrapped.transformer
        return text

    @property
    def _text_encoders(self) -> list[Any]:
        """SDXL's two; what follows them are its embeddings of sizes."""
        return list(self._model.conditioner.embedders)[:2]

    def text_lora_name(self, module_name: str) -> str:
        """'' for the attention of SDXL's second text model too: OpenCLIP computes it in one call, past all hooks."""
        number, _, name = module_name.partition(".")
        if self.family is not SDXL or number == "0":
            return super().text_lora_name(module_name)
        part = next(iter(parts_of(f"{name}.weight")), "").removesuffix(".weight")
        return names.text_kohya(f"1.{part}", SDXL) if ".mlp." in name else ""

    @property
    def device(self) -> torch.device:
        device: torch.device = devices.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        # Under autocast fp32 weights compute in `devices.dtype` too.
        dtype: torch.dtype = devices.dtype_unet if devices.dtype_unet is not torch.float32 else devices.dtype
        return dtype

    @property
    def precision_flags(self) -> str:
        return "--no-half for fp32, or without it"

    @property
    def prediction_type(self) -> str:
        return "v_prediction" if self._model.parameterization == "v" else "epsilon"

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        # Generation options change the plain `alphas_cumprod`; the original is there once weights were halved.
        model = self._model
        return self._schedule(getattr(model, "alphas_cumprod_original", model.alphas_cumprod))

    def _checkpoint_info(self) -> Any:
        loaded = sd_models.model_data.sd_model
        if loaded is not None:
            return loaded.sd_checkpoint_info
        try:
            return sd_models.select_checkpoint()
        except FileNotFoundError:
            return None

    @contextmanager
    def _trainable_model(self) -> Iterator[None]:
        model = shared.sd_model  # loads what is selected, if nothing is loaded yet
        _check(model)
        _make_pristine(model)
        with ExitStack() as patched:
            patched.enter_context(patching.without_inference_tensors(model))
            patched.enter_context(patching.frozen(model))
            if getattr(sd_hijack.current_optimizer, "name", "") not in _FUSED_ATTENTION:
                fused = sd_hijack_optimizations.scaled_dot_product_attention_forward
                patched.enter_context(patching.replaced(CrossAttention, "forward", fused))
            yield

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1
        latents = self._encode(pixels)
        if not torch.isfinite(latents).all():  # both families' VAEs overflow in fp16
            with patching.in_fp32(self._model.first_stage_model):
                latents = self._encode(pixels)
        return latents

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """One picture at a time, as the WebUI does: the VAE needs the most memory of all."""
        model, dtype = self._model, _dtype_of(self._model.first_stage_model)
        pictures = [picture.to(dtype) for picture in pixels.split(1)]
        with devices.without_autocast():
            if self.family is SDXL:
                with _without_sampling():
                    return torch.cat([model.encode_first_stage(picture).float() for picture in pictures])
            posteriors = [model.encode_first_stage(picture) for picture in pictures]
        latents: torch.Tensor = torch.cat([posterior.mode() for posterior in posteriors]).float() * model.scale_factor
        return latents

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        pixels = self._decode(latents)
        if not torch.isfinite(pixels).all():
            with patching.in_fp32(self._model.first_stage_model):
                pixels = self._decode(latents)
        images = ((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        result: np.ndarray = images.permute(0, 2, 3, 1).cpu().numpy()
        return result

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        model, dtype = self._model, _dtype_of(self._model.first_stage_model)
        with devices.without_autocast():
            return torch.cat([model.decode_first_stage(sample.to(dtype)).float() for sample in latents.split(1)])

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        return self._encode_prompts(prompts)

    def encode_prompts_with_grad(self, prompts: Sequence[str]) -> Conditions:
        if getattr(self._model, "lowvram", False):  # --medvram: the models take turns on the device
            self.encode_prompts([""])  # brings the text model there
        with ExitStack() as patched:
            # Until backward, though the UNet is moved in before.
            patched.enter_context(patching.staying_in_place(self.text_model))
            for encoder in self._text_encoders if self.family is SDXL else ():
                patched.enter_context(patching.replaced(encoder, "is_trainable", True))
            return self._encode_prompts(prompts)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        with devices.autocast():
            cond = self._model.get_learned_conditioning(list(prompts))
        return self._conditions(cond).float()

    def _run_unet(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        # Through apply_model: it casts, opens autocast and, with --medvram, brings the UNet to the device.
        if cond.vector is None:
            conds: dict[str, Any] = {"c_crossattn": [cond.crossattn]}
        else:
            conds = {"crossattn": cond.crossattn, "vector": vector_with_sizes(cond.vector, latents)}
        output: torch.Tensor = self._model.apply_model(latents, timesteps, conds)
        return output

    def _forget(self, path: Path) -> None:
        networks = lora_networks()
        for name, network in list(networks.networks_in_memory.items()):
            if Path(network.network_on_disk.filename) == path:
                del networks.networks_in_memory[name]
        _unmerge_loras(self._model)


def _check(model: Any) -> None:
    """Raises HostError when `model` cannot be trained."""
    if model is None:
        raise HostError(
            "no checkpoint is loaded: choose an SD1.5 or SDXL checkpoint at the top of the page, and wait for it."
        )
    check_kind({
        "a distilled SDXL (SSD-1B or its like)": bool(getattr(model, "is_ssd", False)),
        "SDXL's refiner": _is_refiner(model),
        "SD2": bool(getattr(model, "is_sd2", False)),
        "SD3": bool(getattr(model, "is_sd3", False)),
        "no Stable Diffusion model with a UNet": not hasattr(getattr(model, "model", None), "diffusion_model"),
    })  # fmt: skip
    channels = model.model.diffusion_model.in_channels
    check_kind({f"an inpainting or editing model ({channels} input channels)": channels != 4})
    if shared.cmd_opts.lowvram:
        raise HostError(
            "the WebUI runs with --lowvram, which keeps the UNet in pieces: start it with --medvram or with neither."
        )


def _is_refiner(model: Any) -> bool:
    """SDXL's refiner has OpenCLIP's text model alone."""
    return bool(getattr(model, "is_sdxl", False)) and not hasattr(model.conditioner.embedders[0].wrapped, "transformer")


@contextmanager
def _without_sampling() -> Iterator[None]:
    """SDXL's VAE gives the mean of its posterior, of which it would draw a sample otherwise."""
    from sgm.modules.distributions.distributions import DiagonalGaussianDistribution as Posterior

    with patching.replaced(Posterior, "sample", Posterior.mode):
        yield


def _make_pristine(model: Any) -> None:
    """Undo what earlier pictures left in `model`: merged LoRAs, tiling, a replaced UNet, hypernetworks."""
    remove_timed_loras()
    _unmerge_loras(model)
    hypernetwork.load_hypernetworks([])
    sd_unet.apply_unet("None")
    sd_hijack.model_hijack.apply_circular(False)


@torch.no_grad()
def _unmerge_loras(model: Any) -> None:
    """Weights as they are in the checkpoint's file. The next picture merges its own LoRAs again."""
    networks = lora_networks()
    networks.load_networks([])
    for module in model.modules():
        if getattr(module, "network_current_names", ()):
            networks.network_apply_weights(module)


def _dtype_of(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
