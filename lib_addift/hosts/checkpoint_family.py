"""Which family a checkpoint's file is of, and which schedule it has. Every other kind is refused with a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lib_addift.errors import HostError
from lib_addift.families import LATENT_CHANNELS, SD15, SDXL, Family
from lib_addift.lora import names

REMEDY = "Choose an SD1.5 or SDXL checkpoint (.safetensors)."
# The beginning of a tensor's name that only the given kind of file has.
_OTHER_MODELS = {
    "SDXL's refiner": "conditioner.embedders.0.model.",
    "SD2": "cond_stage_model.model.",
    "SD3": "model.diffusion_model.joint_blocks.",
    "Flux": "double_blocks.",
    "Lumina or Z-Image": "cap_embedder.",
    "a UNet in the diffusers layout": "down_blocks.",
}
_FIRST = names.UNET_PREFIX + "input_blocks.0.0.weight"


def family_of(path: Path, file: Any) -> Family:
    """The family of an open file. Raises HostError when it has no UNet of a family that can be trained."""
    keys = list(file.keys())
    _check_kind(path, keys)
    if _FIRST not in keys:
        raise HostError(f"'{path.name}' holds no UNet of SD1.x or SDXL. {REMEDY}")
    _check_channels(path, file.get_slice(_FIRST).get_shape())
    is_xl = any(key.startswith((SDXL.text_encoders[0].prefix, names.UNET_PREFIX + "label_emb.")) for key in keys)
    return SDXL if is_xl else SD15


def _check_kind(path: Path, keys: Collection[str]) -> None:
    if any(key.startswith(("lora_", "lycoris_")) or ".lora_" in key for key in keys):
        raise HostError(f"'{path.name}' is a LoRA, not a checkpoint. {REMEDY}")
    for kind, mark in _OTHER_MODELS.items():
        if any(key.startswith((mark, f"model.diffusion_model.{mark}")) for key in keys):
            raise HostError(f"'{path.name}' is {kind}; training works on SD1.x and SDXL checkpoints only. {REMEDY}")
    if not any(key.startswith(names.UNET_PREFIX) for key in keys):
        raise HostError(f"'{path.name}' holds no Stable Diffusion model. {REMEDY}")


def _check_channels(path: Path, shape: Collection[int]) -> None:
    if len(shape) != 4:
        raise HostError(f"'{path.name}' has a damaged UNet: {_FIRST} has the shape {tuple(shape)}. {REMEDY}")
    channels = tuple(shape)[1]
    if channels != LATENT_CHANNELS:
        kind = {8: "an instruct-pix2pix", 9: "an inpainting"}.get(channels, "another kind of")
        raise HostError(f"'{path.name}' is {kind} model (its UNet reads {channels} channels, not 4). {REMEDY}")


def prediction_type(keys: Collection[str], metadata: Mapping[str, str]) -> str:
    """'v_prediction' where an empty tensor 'v_pred' or the file's modelspec says so, else 'epsilon'."""
    is_v = "v_pred" in keys or metadata.get("modelspec.prediction_type", "") in ("v", "v_prediction")
    return "v_prediction" if is_v else "epsilon"


def has_zero_snr(keys: Collection[str]) -> bool:
    """Whether the schedule ends in pure noise: an empty tensor 'ztsnr' says so."""
    return "ztsnr" in keys
