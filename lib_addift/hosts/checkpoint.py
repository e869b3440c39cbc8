"""Reads the single file of an SD1.x or SDXL checkpoint. For any other a HostError says what it is and what to do."""

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
from lib_addift.families import SD15, Family, TextEncoder
from lib_addift.files import sha256_of
from lib_addift.hosts import open_clip
from lib_addift.hosts.checkpoint_family import REMEDY, family_of, has_zero_snr, prediction_type
from lib_addift.lora import names
from lib_addift.lora.selection import layer_kind


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of the models in a file, with diffusers' and transformers' names; `texts`: of each text encoder."""

    unet: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]
    texts: tuple[dict[str, torch.Tensor], ...]
    prediction_type: str
    family: Family = SD15
    zero_snr: bool = False  # whether the noise schedule ends in pure noise


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a whole SD1.x or SDXL text-to-image checkpoint. Raises HostError for any other file."""
    with _opened(path) as (file, family):
        keys = list(file.keys())
        prefixes = (names.UNET_PREFIX, names.VAE_PREFIX, *(encoder.prefix for encoder in family.text_encoders))
        tensors = {key: file.get_tensor(key) for key in keys if key.startswith(prefixes)}
        metadata = file.metadata() or {}
    source = _Tensors(path, family, tensors)
    return Checkpoint(
        unet=source.part("UNet", names.UNET_PREFIX, names.unet_to_diffusers),
        vae=_vae_matrices(source.part("VAE", names.VAE_PREFIX, names.vae_to_diffusers)),
        texts=tuple(source.text(encoder) for encoder in family.text_encoders),
        prediction_type=prediction_type(keys, metadata),
        family=family,
        zero_snr=has_zero_snr(keys),
    )


class LayerWeights:
    """The weights of an open checkpoint that a LoRA can change, by kohya name; see `open_weights`.

    `shapes` are those of the weights as they stand in the file.
    """

    def __init__(self, path: Path, file: Any, family: Family) -> None:
        self.title, self.family = path.name, family
        self._path, self._file = path, file
        keys = [key for key in list(file.keys()) if key.endswith("weight")]
        # OpenCLIP has query, key and value in one tensor: (key, number of the part, number of parts).
        self._places = {
            name: (key, part, len(found))
            for key in keys
            for found in [_lora_names(path, key, family)]
            for part, name in enumerate(found)
        }
        self._places.pop("", None)
        self.shapes: dict[str, tuple[int, ...]] = {
            name: self._shape(key, parts) for name, (key, _, parts) in self._places.items()
        }

    def _shape(self, key: str, parts: int) -> tuple[int, ...]:
        rows, *rest = self._file.get_slice(key).get_shape()
        return rows // parts, *rest

    @functools.cached_property
    def sha256(self) -> str:
        """Of the whole file, hex."""
        return sha256_of(self._path)

    def weight(self, layer: str) -> torch.Tensor:
        """Read the weight of a layer. Raises KeyError for a name that is not in `shapes`."""
        key, part, parts = self._places[layer]
        tensor: torch.Tensor = (
            self._file.get_tensor(key).chunk(parts)[part] if parts > 1 else self._file.get_tensor(key)
        )
        return tensor


@contextmanager
def open_weights(path: Path) -> Iterator[LayerWeights]:
    """A checkpoint whose layers can be read one at a time inside the block. Raises HostError for any other file."""
    with _opened(path) as (file, family):
        yield LayerWeights(path, file, family)


def _lora_names(path: Path, key: str, family: Family) -> list[str]:
    """The names in LoRA files of the layers whose weight is `key`; '' for what LoRA files have no place for."""
    try:
        if key.startswith(names.UNET_PREFIX):
            module = key[len(names.UNET_PREFIX) :].removesuffix(".weight")
            name = names.kohya(names.unet_to_diffusers(module), family)
            return [name if layer_kind(name) else ""]
    except KeyError as error:
        raise HostError(f"'{path.name}' has a UNet that is not {family} ({error.args[0]}). {REMEDY}") from error
    for number, encoder in enumerate(family.text_encoders):
        if key.startswith(encoder.prefix):
            name = key[len(encoder.prefix) :]
            parts = open_clip.parts_of(name) if encoder.is_open_clip else [name]
            place = f"{number}." if len(family.text_encoders) > 1 else ""
            return [names.text_kohya(place + part.removesuffix(".weight"), family) for part in parts]
    return []


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Family]]:
    """The open file and its family. Raises HostError when it is of none, and for errors while it is read."""
    if not path.is_file():
        raise HostError(f"the checkpoint '{path}' is no file: check the path.")
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise HostError(
            f"'{path.name}' is a pickle, which can run code when it is opened: convert it to .safetensors "
            "(the WebUI's Checkpoint Merger does) and use that file."
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file, family_of(path, file)
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise HostError(
            f"'{path.name}' is no whole .safetensors file ({reason}): it may be truncated; download it again."
        ) from error


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a file, as they are named in it."""

    path: Path
    family: Family
    tensors: dict[str, torch.Tensor]

    def part(self, what: str, prefix: str, translate: Callable[[str], str]) -> dict[str, torch.Tensor]:
        """Those of one of the models, by translated name. Raises HostError, in which it is called `what`."""
        named = {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}
        title = self.path.name
        try:
            part = {translate(key): value for key, value in named.items()}
        except KeyError as error:
            raise HostError(f"'{title}' has a {what} that is not {self.family} ({error.args[0]}). {REMEDY}") from error
        part.pop("", None)
        if not part:
            raise HostError(
                f"'{title}' holds no {what}. Choose a full {self.family} checkpoint with UNet, VAE and text model."
            )
        return part

    def text(self, encoder: TextEncoder) -> dict[str, torch.Tensor]:
        """Those of a text model, by transformers' names."""
        if encoder.is_open_clip:
            return open_clip.to_transformers(self.part("second text model", encoder.prefix, str))
        return self.part("text model", encoder.prefix, _text_name)


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
