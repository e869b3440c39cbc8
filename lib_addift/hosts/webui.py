"""What A1111 and the Forge family have in common: the queue lock, progress, layer names, and drawing pictures."""

from __future__ import annotations

import importlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modules import call_queue, processing, scripts, sd_models, shared
from torch import nn

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import check_precision, to_epsilon
from lib_addift.diffusion.schedule import with_zero_snr
from lib_addift.errors import HostError
from lib_addift.families import LATENT_CHANNELS, PIXELS_PER_LATENT, SD15, SDXL, SIZE_WIDTH, SIZES, Family
from lib_addift.lora import names

_ZERO_SNR = "Zero Terminal SNR"  # of the setting sd_noise_schedule


class WebUIHost:
    """The part of `Host` that does not depend on where a WebUI keeps its model."""

    name: str
    latent_channels, pixels_per_latent = LATENT_CHANNELS, PIXELS_PER_LATENT

    @property
    def family(self) -> Family:
        """That of the model that is loaded; SD1.5 before."""
        return SDXL if getattr(sd_models.model_data.sd_model, "is_sdxl", False) else SD15

    @property
    def picture_side(self) -> int | None:
        return self.family.picture_side

    @property
    def lora_dir(self) -> Path:
        return Path(shared.cmd_opts.lora_dir)

    @property
    def model_title(self) -> str:
        """The checkpoint that the next picture would be made with.

        Its name, not its title: that gets a hash behind it while the file is loaded for the first time.
        """
        info = self._checkpoint_info()
        return str(info.name) if info else "no checkpoint"

    @property
    def model_hash(self) -> str:
        """sha256, where the WebUI has computed it: computing it here would mean reading gigabytes."""
        return str(getattr(self._checkpoint_info(), "sha256", None) or "")

    @property
    def clip_skip(self) -> int:
        """The WebUI's own setting."""
        return int(shared.opts.CLIP_stop_at_last_layers)

    @property
    @abstractmethod
    def unet(self) -> nn.Module: ...

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def alphas_cumprod(self) -> torch.Tensor: ...

    @property
    @abstractmethod
    def prediction_type(self) -> str: ...

    @property
    def zero_snr(self) -> bool:
        """The WebUI's own setting, which bends the schedule for every model: none but those of v can be drawn with."""
        return self.prediction_type == "v_prediction" and getattr(shared.opts, "sd_noise_schedule", "") == _ZERO_SNR

    def _schedule(self, alphas_cumprod: torch.Tensor) -> torch.Tensor:
        """The schedule with which pictures are drawn, of the one that the model was loaded with."""
        abar = alphas_cumprod.float()
        return (with_zero_snr(abar) if self.zero_snr else abar).to(self.device)

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The type in which the UNet computes."""

    @property
    @abstractmethod
    def precision_flags(self) -> str:
        """The WebUI's own flags that choose that type, as a message names them."""

    @property
    def needs_loss_scaling(self) -> bool:
        return self.dtype is torch.float16

    @abstractmethod
    def _checkpoint_info(self) -> Any:
        """The WebUI's record of the chosen checkpoint, or None."""

    @abstractmethod
    def _trainable_model(self) -> Any:
        """A context manager in which the model has the checkpoint's weights and is patched for autograd."""

    @abstractmethod
    def _run_unet(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor: ...

    def _conditions(self, cond: torch.Tensor | Mapping[str, torch.Tensor]) -> Conditions:
        """What a model makes of prompts. Of SDXL's vector the pooled text alone: the sizes are those of the latents."""
        if isinstance(cond, torch.Tensor):
            return Conditions(cond)
        return Conditions(cond["crossattn"], cond["vector"][:, : -SIZES * SIZE_WIDTH])

    @abstractmethod
    def _forget(self, path: Path) -> None:
        """Drop what the WebUI has cached of an earlier file at this path."""

    @contextmanager
    def exclusive(self, *, precision: str = "auto") -> Iterator[None]:
        """Hold the lock that every picture of the WebUI takes: pictures asked for meanwhile wait. Raises HostError."""
        with call_queue.queue_lock:
            shared.state.begin(job="addift")
            try:
                # A gradio handler of a WebUI may run in inference mode; training cannot.
                with torch.inference_mode(False), torch.enable_grad(), self._trainable_model():
                    check_precision(precision, self.dtype, f"start the WebUI with {self.precision_flags}")
                    yield
            finally:
                shared.state.end()

    def lora_name(self, module_name: str) -> str:
        try:
            return names.kohya(names.unet_to_diffusers(module_name), self.family)
        except KeyError:  # a container, such as 'input_blocks', which no LoRA names
            return ""

    def text_lora_name(self, module_name: str) -> str:
        return names.text_kohya(module_name, self.family)

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        output = self._run_unet(latents, timesteps, cond).float()
        return to_epsilon(output, latents, self.alphas_cumprod[timesteps], self.prediction_type)

    def report(self, text: str, done: int, total: int) -> None:
        """Show it in the WebUI's own progress, which /sdapi/v1/progress answers with too."""
        state = shared.state
        state.textinfo, state.job_count, state.job_no = text, 1, 0
        state.sampling_step, state.sampling_steps = done, max(total, 1)

    @property
    def card_versions(self) -> Mapping[str, str]:
        return {}  # 'SD1', 'SD2', 'SDXL' are A1111's own words, and most others' too

    def lora_names(self) -> list[str]:
        return sorted(lora_networks().available_networks)

    def refresh_loras(self, path: Path) -> None:
        self._forget(path)
        # The WebUI caches encoded prompts, and with them what the LoRA changed in the text model.
        for kind, caches in (
            (processing.StableDiffusionProcessing, ("cached_c", "cached_uc")),
            (processing.StableDiffusionProcessingTxt2Img, ("cached_hr_c", "cached_hr_uc")),
        ):
            for cache in caches:
                setattr(kind, cache, [None] * len(getattr(kind, cache)))
        lora_networks().list_available_networks()

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
        job = processing.StableDiffusionProcessingTxt2Img(
            sd_model=shared.sd_model, prompt=prompt, negative_prompt=negative_prompt, seed=seed, steps=steps,
            cfg_scale=cfg_scale, width=width, height=height, sampler_name="Euler", do_not_save_samples=True,
            do_not_save_grid=True,
        )  # fmt: skip
        job.scripts = scripts.ScriptRunner()  # without the scripts of extensions; reForge draws only with a runner
        with call_queue.queue_lock, closing(job):
            shared.state.begin(job="addift test")
            try:
                pictures = processing.process_images(job).images
            finally:
                shared.state.end()
        if not pictures:
            raise HostError(f"the WebUI drew no picture for '{prompt}': look at its console for the reason.")
        return np.asarray(pictures[0].convert("RGB"))


def lora_networks() -> Any:
    """The module `networks` of the WebUI's built-in Lora extension. Raises HostError when it is switched off."""
    try:
        return importlib.import_module("networks")
    except ImportError as error:
        raise HostError(
            "the WebUI's built-in extension 'Lora' is switched off: enable it in the tab Extensions and restart."
        ) from error


def check_kind(facts: dict[str, bool]) -> None:
    """Raises HostError when one of `facts` is true: each is a kind of model that cannot be trained, by name."""
    kinds = [kind for kind, is_so in facts.items() if is_so]
    if kinds:
        raise HostError(
            f"the loaded checkpoint is {kinds[0]}, and only SD1.5 and SDXL can be trained: choose one of those."
        )


@dataclass(frozen=True)
class ApiAccess:
    """Who may use the HTTP API, and which pictures it may read."""

    is_enabled: bool
    credentials: dict[str, str] | None  # user -> password; None = everybody may
    picture_dirs: list[Path]  # folders whose pictures requests may name by path
    allowed_origins: re.Pattern[str] | None = None  # sites whose pages may change something; None: no other site's


def api_access() -> ApiAccess:
    """What the WebUI's options --api, --nowebui, --api-auth and --cors-..., and its output folders say of the API."""
    options = shared.cmd_opts
    return ApiAccess(
        is_enabled=bool(options.api or options.nowebui),
        credentials=_credentials(options.api_auth),
        picture_dirs=_picture_dirs(shared.opts),
        allowed_origins=_allowed_origins(options),
    )


def _credentials(api_auth: str | None) -> dict[str, str] | None:
    """'user:password,other:word' as the WebUI reads it; None when its API is open."""
    if not api_auth:
        return None
    return {user: password for user, _, password in (entry.partition(":") for entry in api_auth.split(","))}


def _allowed_origins(options: Any) -> re.Pattern[str] | None:
    """The sites of --cors-allow-origins and --cors-allow-origins-regex, to which the WebUI opens its own API."""
    listed = (getattr(options, "cors_allow_origins", None) or "").split(",")
    patterns = [".*" if each == "*" else re.escape(each) for each in map(str.strip, listed) if each]
    patterns += filter(None, [getattr(options, "cors_allow_origins_regex", None)])
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None


def _picture_dirs(options: Any) -> list[Path]:
    """The folders into which the WebUI writes pictures, as far as its settings name them."""
    names = ("outdir_samples", "outdir_txt2img_samples", "outdir_img2img_samples", "outdir_extras_samples")
    folders = [getattr(options, name, "") for name in names]
    return [Path(folder) for folder in folders if folder]
