"""The architecture of the bundled models, and checkpoints in the layouts of the SD1.5 and the SDXL release."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

from lib_addift.diffusion.schedule import scaled_linear_alphas_cumprod
from lib_addift.families import SD15, SDXL, SIZE_WIDTH, SIZES, Family
from lib_addift.hosts import open_clip
from lib_addift.hosts.standalone_models import text_model, unet_arguments
from lib_addift.lora import names

# Group norm has 32 groups: with 32 channels it erases whatever is the same over the whole picture, such as the style,
# so the VAE's coarse levels have 64. Each UNet's deepest levels see 2 x 2 latent pixels or fewer and need little.
UNET_WIDTHS = {SD15: (64, 96, 32, 32), SDXL: (64, 64, 32)}
VAE_WIDTHS = (32, 96, 64, 64)
TEXT_WIDTHS = {SD15: (24,), SDXL: (12, 20)}  # multiples of the numbers of heads


@dataclass(frozen=True)
class WorldModels:
    """The models of a checkpoint, in diffusers and transformers; `texts` has one for each text encoder."""

    family: Family
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    texts: nn.ModuleList


def build_models(family: Family = SD15, picture_side: int = 64) -> WorldModels:
    """Narrow models with random weights."""
    texts = [
        text_model(encoder, tokens=49408, width=width, layers=encoder.layers, fully_connected=4 * width)
        for encoder, width in zip(family.text_encoders, TEXT_WIDTHS[family], strict=True)
    ]
    return WorldModels(family, build_unet(family, picture_side // 8), build_vae(picture_side), nn.ModuleList(texts))


def build_vae(sample_size: int = 64) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=VAE_WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=sample_size,
    )


def build_unet(family: Family = SD15, sample_size: int = 8) -> UNet2DConditionModel:
    widths = TEXT_WIDTHS[family]
    vector = widths[-1] + SIZES * SIZE_WIDTH if family.has_vector else None
    arguments = unet_arguments(family, UNET_WIDTHS[family], sum(widths), vector)
    unet = UNet2DConditionModel(**arguments, norm_num_groups=32, sample_size=sample_size)
    if max(family.depths) > 1:
        _zero_outputs(unet)
    if family.has_vector:
        _listen_to_the_text(unet.add_embedding.linear_1, widths[-1])
    return unet


def _zero_outputs(unet: nn.Module) -> None:
    """Each block begins as the identity, as in CompVis' code: a UNet of many narrow layers learns much faster so."""
    for name, module in unet.named_modules():
        if name.endswith((".proj_out", ".conv2")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def _listen_to_the_text(layer: nn.Linear, pooled: int) -> None:
    """The pooled text begins as if it were alone.

    Beside 1536 numbers on sizes, which are all the same in a world of one size, a narrow one is never heard.
    """
    nn.init.uniform_(layer.weight[:, :pooled], -(pooled**-0.5), pooled**-0.5)
    layer.weight[:, pooled:] = 0


def _schedule_buffers() -> dict[str, torch.Tensor]:
    """The noise schedule's tensors that SD1.5 files carry, in float32."""
    alphas_cumprod = scaled_linear_alphas_cumprod().double()
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    betas = 1 - alphas_cumprod / previous
    variance = betas * (1 - previous) / (1 - alphas_cumprod)
    buffers = {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas_cumprod).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alphas_cumprod).log(),
        "sqrt_recip_alphas_cumprod": (1 / alphas_cumprod).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alphas_cumprod - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - alphas_cumprod),
        "posterior_mean_coef2": (1 - previous) * (1 - betas).sqrt() / (1 - alphas_cumprod),
    }
    return {name: value.float() for name, value in buffers.items()}


def save_checkpoint(path: Path, models: WorldModels, metadata: dict[str, str]) -> None:
    """One fp16 file with CompVis keys, as the family's release has them."""
    family = models.family
    state = {names.UNET_PREFIX + names.unet_to_compvis(k, family): v for k, v in models.unet.state_dict().items()}
    for key, value in models.vae.state_dict().items():
        is_attention_matrix = ".attentions." in key and value.ndim == 2
        state[names.VAE_PREFIX + names.vae_to_compvis(key)] = value[:, :, None, None] if is_attention_matrix else value
    state |= _text_tensors(models)
    half = {key: value.detach().half().contiguous().clone() for key, value in state.items()}
    half[f"{family.text_encoders[0].prefix}text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(half | (_schedule_buffers() if family is SD15 else {}), path, {"format": "pt", **metadata})


def _text_tensors(models: WorldModels) -> dict[str, torch.Tensor]:
    """The tensors of the text models, as they are named in the file."""
    tensors: dict[str, torch.Tensor] = {}
    for encoder, model in zip(models.family.text_encoders, models.texts, strict=True):
        state = {key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
        if encoder.is_open_clip:
            named = {**open_clip.from_transformers(state), "logit_scale": torch.tensor(100.0).log()}
        else:
            named = {f"text_model.{key}": value for key, value in state.items()}
        tensors |= {encoder.prefix + key: value for key, value in named.items()}
    return tensors
