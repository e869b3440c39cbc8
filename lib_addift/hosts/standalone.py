"""The host without a WebUI: any SD1.x or SDXL single file, through diffusers and transformers, without network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import check_precision, to_epsilon
from lib_addift.diffusion.sampler import Guidance, ddim, ddim_timesteps
from lib_addift.diffusion.schedule import scaled_linear_alphas_cumprod, with_zero_snr
from lib_addift.dtypes import DTYPES
from lib_addift.errors import HostError
from lib_addift.families import LATENT_CHANNELS, PIXELS_PER_LATENT
from lib_addift.files import sha256_of
from lib_addift.hosts.checkpoint import Checkpoint, read_checkpoint
from lib_addift.hosts.prompt_tag.compose import PromptLora, PromptLoras, parts_of
from lib_addift.hosts.prompt_tag.syntax import Tag, composition_of, read_prompt, text_weights
from lib_addift.hosts.standalone_models import build_text_model, build_unet, build_vae, encode_chunk, loaded, run_unet
from lib_addift.hosts.tokenizer import load_tokenizer
from lib_addift.lora import names
from lib_addift.lora.file import check_name, read_lora
from lib_addift.lora.network import LoraNetwork

_log = logging.getLogger(__name__)


class StandaloneHost:
    """Implements `Host` on a checkpoint file. Raises HostError when the file or the device cannot be used."""

    name = "standalone"
    latent_channels, pixels_per_latent = LATENT_CHANNELS, PIXELS_PER_LATENT

    def __init__(
        self,
        checkpoint: Path,
        *,
        lora_dir: Path = Path("."),
        device: str = "auto",
        precision: str = "auto",
        clip_skip: int = 1,
    ) -> None:
        self.lora_dir = lora_dir
        self.device = _device(device)
        self._dtype = _dtype(precision, self.device)
        parts = read_checkpoint(checkpoint)
        self.family = parts.family
        self.clip_skip = max(clip_skip, self.family.clip_skip)
        self.model_title = checkpoint.name
        self.model_hash = sha256_of(checkpoint)
        self.prediction_type, self.zero_snr = parts.prediction_type, parts.zero_snr
        alphas_cumprod = scaled_linear_alphas_cumprod()
        self.alphas_cumprod = (with_zero_snr(alphas_cumprod) if self.zero_snr else alphas_cumprod).to(self.device)
        self._lock = threading.RLock()  # a training run and a picture take turns
        self._load_models(parts)
        _check_clip_skip(clip_skip, layers=min(len(model.encoder.layers) for model in self._texts))

    def _load_models(self, parts: Checkpoint) -> None:
        family, dtype = parts.family, self._dtype
        load = partial(loaded, family=family, device=self.device)
        self._unet = load("UNet", partial(build_unet, family=family), parts.unet, dtype=dtype)
        # Both families' VAEs overflow in fp16, so they stay in fp32 there.
        self._vae = load("VAE", build_vae, parts.vae, dtype=torch.float32 if dtype is torch.float16 else dtype)
        self._texts, self._tokenize = [], []
        for encoder, state in zip(family.text_encoders, parts.texts, strict=True):
            self._texts.append(load("text model", partial(build_text_model, encoder=encoder), state, dtype=dtype))
            self._tokenize.append(load_tokenizer(encoder.padding))
        self._text = self._texts[0] if len(self._texts) == 1 else nn.ModuleList(self._texts)

    @property
    def picture_side(self) -> int | None:
        """The family's; narrower UNets are small worlds of their own."""
        is_full = self._unet.config.block_out_channels == self.family.widths
        return self.family.picture_side if is_full else None

    @property
    def needs_loss_scaling(self) -> bool:
        return self._dtype is torch.float16

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = self._unet
        return unet

    @property
    def vae(self) -> nn.Module:
        vae: nn.Module = self._vae
        return vae

    @property
    def text_model(self) -> nn.Module:
        text: nn.Module = self._text
        return text

    @contextmanager
    def exclusive(self, *, precision: str = "auto") -> Iterator[None]:
        check_precision(precision, self._dtype, "set it alike for all sets of a batch")
        with self._lock:
            yield

    def lora_name(self, module_name: str) -> str:
        return names.kohya(module_name, self.family)

    def text_lora_name(self, module_name: str) -> str:
        return names.text_kohya(module_name, self.family)

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device, self._vae.dtype) / 127.5 - 1
        # One picture at a time, here and when decoding: the VAE needs the most memory of the three models.
        latents = [self._vae.encode(picture).latent_dist.mode() for picture in pixels.split(1)]
        return torch.cat(latents).float() * self.family.latent_scale

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        scaled = (latents / self.family.latent_scale).to(self._vae.dtype)
        pixels = torch.cat([self._vae.decode(sample).sample.float() for sample in scaled.split(1)])
        images = ((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        result: np.ndarray = images.permute(0, 2, 3, 1).cpu().numpy()
        return result

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        return self.encode_prompts_with_grad(prompts)

    def encode_prompts_with_grad(self, prompts: Sequence[str]) -> Conditions:
        ids = [tokenize(prompts).to(self.device).unbind(dim=1) for tokenize in self._tokenize]  # (B, 77) for each chunk
        chunks = [encode_chunk(self._texts, each, self.family, self.clip_skip) for each in zip(*ids, strict=True)]
        # The pooled text is the first chunk's, as in A1111.
        return Conditions(torch.cat([chunk.crossattn for chunk in chunks], dim=1), chunks[0].vector).float()

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        output = self._run_unet(latents.to(self._dtype), timesteps, cond.to(dtype=self._dtype)).float()
        return to_epsilon(output, latents, self.alphas_cumprod[timesteps], self.prediction_type)

    def _run_unet(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        # A picture of 64 px is a single pixel at SD1.5's deepest level. If that has 32 channels, each group of group
        # norm is a single value, which torch refuses for a batch of one: such a picture goes through twice in a batch.
        is_point = max(latents.shape[2:]) <= 2 ** (self.family.levels - 1)
        is_single = latents.shape[0] == 1 and is_point and 32 in self._unet.config.block_out_channels
        if is_single:
            latents, timesteps, cond = latents.repeat(2, 1, 1, 1), timesteps.repeat(2), cond.repeat(2)
        output = run_unet(self._unet, latents, timesteps, cond)
        return output[:1] if is_single else output

    def report(self, text: str, done: int, total: int) -> None:
        """Nothing: the command line and the tab show the progress of their jobs themselves."""

    def lora_names(self) -> list[str]:
        return sorted(path.stem for path in self.lora_dir.glob("*.safetensors"))

    @torch.no_grad()
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
        """As `Host.draw`, by DDIM.

        Raises ConfigError for a wrong tag, and LoraFileError when its file is missing or does not fit the model.
        """
        plain, tags = read_prompt(prompt)
        composition, problem = composition_of(tags)
        if problem:
            _log.warning(problem)
        size = (height // self.pixels_per_latent, width // self.pixels_per_latent)
        shape = (1, self.latent_channels, *size)
        noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).to(self.device)
        with self.exclusive(), ExitStack() as attached:
            loras, text_loras = self._load(tags)
            for network in text_loras:
                attached.enter_context(network.attach())
            attached.enter_context(PromptLoras(loras, composition).attach(self.unet))
            uncond, cond = self.encode_prompts([negative_prompt, plain]).split()
            guidance = Guidance(uncond, cfg_scale) if cfg_scale > 1 else None
            latents = ddim(self, noise, cond, ddim_timesteps(steps), guidance=guidance)
            picture: np.ndarray = self.decode_latents(latents)[0]
        return picture

    def _load(self, tags: Sequence[Tag]) -> tuple[list[PromptLora], list[LoraNetwork]]:
        """The LoRAs of a prompt: for the UNet, and for the text model."""
        files = {
            name: parts_of(read_lora(self.lora_dir / f"{check_name(name)}.safetensors")[0])
            for name in dict.fromkeys(tag.name for tag in tags)
        }
        loras = [
            PromptLora(LoraNetwork.from_tensors(files[tag.name][0], self.unet, self.lora_name), tag)
            for tag in tags
            if files[tag.name][0]  # a LoRA without a UNet part must not count in the mean of compose=composite
        ]
        text_loras = []
        for name, weight in text_weights(tags):
            if files[name][1]:
                network = LoraNetwork.from_tensors(files[name][1], self.text_model, self.text_lora_name)
                network.multiplier = weight
                text_loras.append(network)
        return loras, text_loras

    @property
    def card_versions(self) -> Mapping[str, str]:
        return {}

    def refresh_loras(self, path: Path) -> None:
        """Nothing: LoRA files are read anew for each picture."""


def _check_clip_skip(clip_skip: int, *, layers: int) -> None:
    if not 1 <= clip_skip <= layers:
        raise HostError(
            f"clip skip {clip_skip} cannot be had: the checkpoint's text model has {layers} layers, so choose 1 (its "
            f"last layer is used) to {layers}."
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise HostError(f"device '{name}' cannot be used here ({reason}): choose cpu, cuda or mps.") from error
    return device


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    """auto is bf16 where the GPU has it in hardware, fp16 on older CUDA GPUs and fp32 elsewhere."""
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if precision not in DTYPES:
        raise HostError(f"precision '{precision}' is unknown: choose auto, {', '.join(DTYPES)}.")
    return DTYPES[precision]
