"""Reads an SD1.x single file and says in one sentence why another file is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lib_addift.errors import HostError
from lib_addift.hosts import names

_REMEDY = "Choose an SD1.5 checkpoint (.safetensors)."
# A tensor name that only the given kind of file has.
_OTHER_MODELS = {
    "SDXL": "conditioner.embedders.",
    "SD2": "cond_stage_model.model.",
    "SD3": "model.diffusion_model.joint_blocks.",
    "Flux": "double_blocks.",
    "an SD1.5 UNet in the diffusers layout": "down_blocks.",
}


@dataclass(frozen=True)
class Checkpoint:
    """The three models of an SD1.x file, with diffusers' and transformers' names."""

    unet: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]
    text: dict[str, torch.Tensor]
    prediction_type: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Raises HostError for anything but a whole SD1.x text-to-image checkpoint."""
    if not path.is_file():
        raise HostError(f"the checkpoint '{path}' is no file: check the path.")
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise HostError(
            f"'{path.name}' is a pickle, which can run code when it is opened: convert it to .safetensors "
            "(the WebUI's Checkpoint Merger does) and use that file."
        )
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            _check_kind(path, keys)
            tensors = {key: file.get_tensor(key) for key in keys if key.startswith(_PREFIXES)}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise HostError(
            f"'{path.name}' is no whole .safetensors file ({str(error).splitlines()[0]}): it may be truncated; "
            "download it again."
        ) from error
    _check_shapes(path, tensors)
    return Checkpoint(
        unet=_part(path, "UNet", tensors, names.UNET_PREFIX, names.unet_to_diffusers),
        vae=_vae_matrices(_part(path, "VAE", tensors, names.VAE_PREFIX, names.vae_to_diffusers)),
        text=_part(path, "text model", tensors, names.TEXT_PREFIX, _text_name),
        prediction_type=_prediction_type(keys, metadata),
    )


_PREFIXES = (names.UNET_PREFIX, names.VAE_PREFIX, names.TEXT_PREFIX)


def _check_kind(path: Path, keys: list[str]) -> None:
    if any(key.startswith(("lora_", "lycoris_")) or ".lora_" in key for key in keys):
        raise HostError(f"'{path.name}' is a LoRA, not a checkpoint. {_REMEDY}")
    for kind, mark in _OTHER_MODELS.items():
        if any(key.startswith((mark, f"model.diffusion_model.{mark}")) for key in keys):
            raise HostError(f"'{path.name}' is {kind}; training works on SD1.x checkpoints only. {_REMEDY}")
    if not any(key.startswith(names.UNET_PREFIX) for key in keys):
        raise HostError(f"'{path.name}' holds no Stable Diffusion model. {_REMEDY}")


def _check_shapes(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    first = tensors.get(names.UNET_PREFIX + "input_blocks.0.0.weight")
    if first is None:
        raise HostError(f"'{path.name}' holds no SD1.x UNet. {_REMEDY}")
    if first.shape[1] != 4:
        kind = {8: "an instruct-pix2pix", 9: "an inpainting"}.get(first.shape[1], "another kind of")
        raise HostError(f"'{path.name}' is {kind} model (its UNet reads {first.shape[1]} channels, not 4). {_REMEDY}")


def _part(
    path: Path, what: str, tensors: dict[str, torch.Tensor], prefix: str, translate: object
) -> dict[str, torch.Tensor]:
    assert callable(translate)
    try:
        part = {translate(key[len(prefix) :]): value for key, value in tensors.items() if key.startswith(prefix)}
    except KeyError as error:
        raise HostError(f"'{path.name}' has a {what} that is not SD1.x ({error.args[0]}). {_REMEDY}") from error
    part.pop("", None)
    if not part:
        raise HostError(f"'{path.name}' holds no {what}. Choose a full SD1.5 checkpoint with UNet, VAE and text model.")
    return part


def _text_name(name: str) -> str:
    name = name.removeprefix("text_model.")  # old merges leave it out, and WebUIs read them
    if name.endswith("position_ids") or not name.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
        return ""  # a constant, or a projection that SD1.x does not use
    return name


def _vae_matrices(vae: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The VAE's attention is stored as 1x1 convolutions; diffusers has plain matrices."""
    return {
        key: value[:, :, 0, 0] if ".attentions." in key and value.ndim == 4 else value for key, value in vae.items()
    }


def _prediction_type(keys: list[str], metadata: dict[str, str]) -> str:
    """v-prediction files say so by an empty tensor 'v_pred' or in their modelspec; everything else is epsilon."""
    is_v = "v_pred" in keys or metadata.get("modelspec.prediction_type", "") in ("v", "v_prediction")
    return "v_prediction" if is_v else "epsilon"
