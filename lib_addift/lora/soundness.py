"""What a LoRA file's tensors must be, of whatever kind, before anything is computed with them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from lib_addift.errors import LoraFileError
from lib_addift.lora.state_dict import ALPHA, DORA, FACTORS, Parts, by_layer

BROKEN = (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What safetensors and torch raise for a file that is damaged, beside safetensors' own error."""
_REMEDY = "get or train the LoRA again"


def check_tensors(tensors: Mapping[str, torch.Tensor]) -> None:
    """`check_layer` for all layers of a file."""
    for name, keys in by_layer(tensors).items():
        check_layer(name, {part: tensors[key] for part, key in keys.items()})


def check_layer(name: str, parts: Parts) -> None:
    """Raises LoraFileError when a factor is no matrix of floats, or alpha is not one finite number.

    Parts of a kind that is not known are left alone. Any float format will do, float8 too.
    """
    for part, tensor in parts.items():
        key, shape = f"{name}.{part}", tuple(tensor.shape)
        if part in FACTORS and (tensor.ndim < 2 or not tensor.numel()):
            raise LoraFileError(f"'{key}' has the shape {shape}, which is no matrix with anything in it: {_REMEDY}.")
        if part in {*FACTORS, DORA[1:]} and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise LoraFileError(f"'{key}' is stored as {kind}, and LoRAs are stored as fractions: {_REMEDY}.")
        if part == ALPHA[1:]:
            if tensor.numel() != 1 or tensor.is_complex():
                raise LoraFileError(f"'{key}' has the shape {shape} and must be one number: {_REMEDY}.")
            if not math.isfinite(float(tensor.double())):
                raise LoraFileError(f"'{key}' is {float(tensor.double())}, which is not finite: {_REMEDY}.")


def not_finite(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """How many numbers of each tensor are infinite or none at all, for those that have any."""
    counts = {key: int((~tensor.double().isfinite()).sum()) for key, tensor in tensors.items()}
    return {key: count for key, count in counts.items() if count}


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises LoraFileError when a number is infinite or none at all: pictures would be black."""
    counts = not_finite(tensors)
    if counts:
        key = min(counts)
        raise LoraFileError(f"'{key}' holds {counts[key]} numbers that are not finite: {_REMEDY}.")
