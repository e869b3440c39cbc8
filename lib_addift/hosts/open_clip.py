"""OpenCLIP's text model, SDXL's second one, under transformers' names: a checkpoint has it as OpenCLIP saves it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

_NAMES = {
    "token_embedding": "embeddings.token_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final": "final_layer_norm",
}
_INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_FUSED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_SPLIT = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_PROJECTION = "text_projection"  # a matrix in OpenCLIP; a linear layer, whose weight is its transpose, in transformers


def parts_of(name: str) -> list[str]:
    """The names in transformers of an OpenCLIP tensor, which may have query, key and value one above the other.

    There is none for a tensor that is not needed.
    """
    if fused := _FUSED.fullmatch(name):
        return [f"encoder.layers.{fused[1]}.self_attn.{part}.{fused[2]}" for part in _PROJECTIONS]
    if layer := _LAYER.fullmatch(name):
        return [f"encoder.layers.{layer[1]}.{_INNER[layer[2]]}.{layer[3]}"] if layer[2] in _INNER else []
    if name in (_PROJECTION, f"{_PROJECTION}.weight"):
        return [f"{_PROJECTION}.weight"]
    first, _, rest = name.partition(".")
    return [".".join(filter(None, (_NAMES[first], rest)))] if first in _NAMES else []


def to_transformers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All tensors of a text model by transformers' names; those that it does not use are left out."""
    result: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        if parts := parts_of(key):
            pieces = [value.T] if key == _PROJECTION else value.chunk(len(parts))
            result |= dict(zip(parts, pieces, strict=True))
    return result


def from_transformers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `to_transformers`."""
    return dict(_from_transformers(tensors))


def _from_transformers(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    names, inner = ({value: key for key, value in table.items()} for table in (_NAMES, _INNER))
    for key, value in tensors.items():
        if split := _SPLIT.fullmatch(key):
            fused = [tensors[key.replace("q_proj", part)] for part in _PROJECTIONS]
            yield f"transformer.resblocks.{split[1]}.attn.in_proj_{split[2]}", torch.cat(fused)
        elif key == f"{_PROJECTION}.weight":
            yield _PROJECTION, value.T
        elif key.startswith("encoder.layers.") and not any(part in key for part in _PROJECTIONS):
            _, _, number, *module, kind = key.split(".")
            yield f"transformer.resblocks.{number}.{inner['.'.join(module)]}.{kind}", value
        elif not key.startswith("encoder."):
            stem, _, kind = key.rpartition(".")
            yield names[key] if key in names else f"{names[stem]}.{kind}", value
