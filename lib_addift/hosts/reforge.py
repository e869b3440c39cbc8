"""reForge and Forge Classic: Forge's way of moving models, with A1111's LatentDiffusion around it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from modules import sd_models, shared

from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import HostError
from lib_addift.hosts import patching
from lib_addift.hosts.forge import ForgeHost


class LdmPatchedHost(ForgeHost):
    """Implements `Host` on reForge and Forge Classic, which keep the model's parts elsewhere than Forge does."""

    name = "reforge"

    @property
    def memory(self) -> ModuleType:
        from ldm_patched.modules import model_management

        module: ModuleType = model_management
        return module

    @property
    def _options(self) -> object:
        from ldm_patched.modules.args_parser import args

        return args

    @property
    def _attention(self) -> tuple[ModuleType, str, ModuleType]:
        from ldm_patched.ldm.modules import attention

        return attention, "optimized_attention", attention

    @property
    def dtype(self) -> torch.dtype:
        model = self._patcher.model
        dtype: torch.dtype = model.manual_cast_dtype or model.get_dtype()
        return dtype

    @property
    def prediction_type(self) -> str:
        return "v_prediction" if getattr(self._model, "parameterization", "eps") == "v" else "epsilon"

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        return self._schedule(getattr(self._model, "alphas_cumprod_original", self._model.alphas_cumprod)).clone()

    def _checkpoint_info(self) -> Any:
        loaded = sd_models.model_data.sd_model
        if loaded is not None:
            return loaded.sd_checkpoint_info
        try:
            return sd_models.select_checkpoint()
        except FileNotFoundError:
            return None

    def _load(self) -> Any:
        model = shared.sd_model  # loads what is selected, if nothing is loaded yet
        if model is None:
            raise HostError(
                "no checkpoint is loaded: choose an SD1.5 or SDXL checkpoint at the top of the page, and wait for it."
            )
        return model

    def _scaled(self, latents: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self._patcher.model.model_config.latent_format.process_in(latents)
        return scaled

    def _encode_prompts(self, prompts: list[str]) -> Any:
        return self._model.get_learned_conditioning(prompts)  # obeys the page's clip skip by itself

    def _run_engines(self, prompts: list[str]) -> Conditions:
        from modules_forge import forge_clip

        # Without this it would load the text model, which is loaded: while it is patched no model may be moved.
        with patching.replaced(forge_clip, "move_clip_to_gpu", lambda: None):
            return self._conditions(self._encode_prompts(prompts))

    def _forget_merged(self, model: Any) -> None:
        model.current_lora_hash = "stale"  # each picture patches a fresh clone of the UNet
