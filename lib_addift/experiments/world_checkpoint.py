"""The architecture of the bundled model, and SD1.x checkpoints in the layout of the SD1.5 release."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from lib_addift.diffusion.schedule import sd15_alphas_cumprod
from lib_addift.lora import names

# Group norm has 32 groups: with 32 channels it erases whatever is the same over the whole picture, such as the style,
# so the VAE's coarse levels have 64. The UNet's two deepest levels see 2 x 2 and 1 latent pixels and need little.
UNET_WIDTHS = (64, 96, 32, 32)
VAE_WIDTHS = (32, 96, 64, 64)
TEXT_WIDTH = 24
SCALE_FACTOR = 0.18215


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


def build_unet(sample_size: int = 8) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=UNET_WIDTHS,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=32,
        sample_size=sample_size,
    )


def build_text_model() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
        )
    )


def _schedule_buffers() -> dict[str, torch.Tensor]:
    """The noise schedule's tensors that SD1.5 files carry, in float32."""
    alphas_cumprod = sd15_alphas_cumprod().double()
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


def save_checkpoint(
    path: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel, metadata: dict[str, str]
) -> None:
    """One fp16 file with CompVis keys, as the SD1.5 release has them."""
    tensors = {names.UNET_PREFIX + names.unet_to_compvis(k): v for k, v in unet.state_dict().items()}
    for key, value in vae.state_dict().items():
        is_attention_matrix = ".attentions." in key and value.ndim == 2
        tensors[names.VAE_PREFIX + names.vae_to_compvis(key)] = (
            value[:, :, None, None] if is_attention_matrix else value
        )
    for key, value in text.state_dict().items():
        tensors[names.TEXT_PREFIX + "text_model." + key] = value
    half = {key: value.detach().half().contiguous().clone() for key, value in tensors.items()}
    half[names.TEXT_PREFIX + "text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(half | _schedule_buffers(), path, {"format": "pt", **metadata})
