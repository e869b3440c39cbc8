"""Reads the single file of an SD1.x checkpoint. For any other file a HostError says what it is and what to do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lib_addift.errors import HostError
from lib_addift.files import sha256_of
from lib_addift.lora import names
from lib_addift.lora.network import layer_kind

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
    """The tensors of the three models in an SD1.x file, with diffusers' and transformers' names."""

    unet: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]
    text: dict[str, torch.Tensor]
    prediction_type: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a whole SD1.x text-to-image checkpoint. Raises HostError for any other file."""
    with _opened(path) as file:
        keys = list(file.keys())
        tensors = {key: file.get_tensor(key) for key in keys if key.startswith(_PREFIXES)}
        metadata = file.metadata() or {}
    return Checkpoint(
        unet=_part(path, "UNet", tensors, names.UNET_PREFIX, names.unet_to_diffusers),
        vae=_vae_matrices(_part(path, "VAE", tensors, names.VAE_PREFIX, names.vae_to_diffusers)),
        text=_part(path, "text model", tensors, names.TEXT_PREFIX, _text_name),
        prediction_type=_prediction_type(keys, metadata),
    )


class LayerWeights:
    """The weights of an open SD1.x file that a LoRA can change, by kohya name; see `open_weights`.

    `shapes` are those of the weights as they stand in the file.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.title = path.name
        self._path, self._file = path, file
        keys = [key for key in list(file.keys()) if key.endswith(".weight")]
        self._keys = {_lora_name(path, key): key for key in keys}
        self._keys.pop("", None)
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(file.get_slice(key).get_shape()) for name, key in self._keys.items()
        }

    @functools.cached_property
    def sha256(self) -> str:
        """Of the whole file, hex."""
        return sha256_of(self._path)

    def weight(self, layer: str) -> torch.Tensor:
        """Read the weight of a layer. Raises KeyError for a name that is not in `shapes`."""
        tensor: torch.Tensor = self._file.get_tensor(self._keys[layer])
        return tensor


@contextmanager
def open_weights(path: Path) -> Iterator[LayerWeights]:
    """An SD1.x file whose layers can be read one at a time inside the block. Raises HostError for any other file."""
    with _opened(path) as file:
        yield LayerWeights(path, file)


def _lora_name(path: Path, key: str) -> str:
    """The name in LoRA files of the layer whose weight is `key`; '' for what LoRA files have no place for."""
    try:
        if key.startswith(names.UNET_PREFIX):
            name = names.kohya(names.unet_to_diffusers(key[len(names.UNET_PREFIX) : -len(".weight")]))
            return name if layer_kind(name) else ""
    except KeyError as error:
        raise HostError(f"'{path.name}' has a UNet that is not SD1.x ({error.args[0]}). {_REMEDY}") from error
    if key.startswith(names.TEXT_PREFIX):
        return names.text_kohya(key[len(names.TEXT_PREFIX) : -len(".weight")])
    return ""


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file. Raises HostError when it holds no SD1.x UNet, and for errors while it is read."""
    if not path.is_file():
        raise HostError(f"the checkpoint '{path}' is no file: check the path.")
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise HostError(
            f"'{path.name}' is a pickle, which can run code when it is opened: convert it to .safetensors "
            "(the WebUI's Checkpoint Merger does) and use that file."
        )
    try:
        with safe_open(path, framework="pt") as file:
            _check_kind(path, list(file.keys()))
            _check_shapes(path, file)
            yield file
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HostError(
            f"'{path.name}' is no whole .safetensors file ({reason}): it may be truncated; download it again."
        ) from error


_PREFIXES = (names.UNET_PREFIX, names.VAE_PREFIX, names.TEXT_PREFIX)


def _check_kind(path: Path, keys: list[str]) -> None:
    if any(key.startswith(("lora_", "lycoris_")) or ".lora_" in key for key in keys):
        raise HostError(f"'{path.name}' is a LoRA, not a checkpoint. {_REMEDY}")
    for kind, mark in _OTHER_MODELS.items():
        if any(key.startswith((mark, f"model.diffusion_model.{mark}")) for key in keys):
            raise HostError(f"'{path.name}' is {kind}; training works on SD1.x checkpoints only. {_REMEDY}")
    if not any(key.startswith(names.UNET_PREFIX) for key in keys):
        raise HostError(f"'{path.name}' holds no Stable Diffusion model. {_REMEDY}")


def _check_shapes(path: Path, file: Any) -> None:
    first = names.UNET_PREFIX + "input_blocks.0.0.weight"
    if first not in list(file.keys()):
        raise HostError(f"'{path.name}' holds no SD1.x UNet. {_REMEDY}")
    shape = file.get_slice(first).get_shape()
    if len(shape) != 4:
        raise HostError(f"'{path.name}' has a damaged UNet: {first} has the shape {tuple(shape)}. {_REMEDY}")
    channels = shape[1]
    if channels != 4:
        kind = {8: "an instruct-pix2pix", 9: "an inpainting"}.get(channels, "another kind of")
        raise HostError(f"'{path.name}' is {kind} model (its UNet reads {channels} channels, not 4). {_REMEDY}")


def _part(
    path: Path, what: str, tensors: dict[str, torch.Tensor], prefix: str, translate: Callable[[str], str]
) -> dict[str, torch.Tensor]:
    """The tensors of one of the models, by translated name. Raises HostError, in which it is called `what`."""
    try:
        part = {translate(key[len(prefix) :]): value for key, value in tensors.items() if key.startswith(prefix)}
    except KeyError as error:
        raise HostError(f"'{path.name}' has a {what} that is not SD1.x ({error.args[0]}). {_REMEDY}") from error
    part.pop("", None)
    if not part:
        raise HostError(f"'{path.name}' holds no {what}. Choose a full SD1.5 checkpoint with UNet, VAE and text model.")
    return part


def _text_name(name: str) -> str:
    """transformers' name of a tensor of the text model; '' for one that SD1.x does not use."""
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
    """'v_prediction' where an empty tensor 'v_pred' or the file's modelspec says so, else 'epsilon'."""
    is_v = "v_pred" in keys or metadata.get("modelspec.prediction_type", "") in ("v", "v_prediction")
    return "v_prediction" if is_v else "epsilon"
