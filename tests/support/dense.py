"""LoRA layers as whole matrices, in numpy and float64: what the arithmetic on factors is tested against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

Tensors = Mapping[str, torch.Tensor]


def layers_of(tensors: Tensors) -> list[str]:
    return sorted({key.partition(".")[0] for key in tensors})


def dense(tensors: Tensors, layer: str) -> np.ndarray:
    """The layer's change of weight at weight 1, (out, in) or (out, in, k, k); written from the papers' formulas."""
    own = {
        key[len(layer) + 1 :]: value.double().numpy() for key, value in tensors.items() if key.startswith(f"{layer}.")
    }
    if "lora_up.weight" in own:
        return _lora(own)
    return _loha(own) if "hada_w1_a" in own else _lokr(own)


def _lora(own: Mapping[str, np.ndarray]) -> np.ndarray:
    up, down = own["lora_up.weight"], own["lora_down.weight"]
    up = up.reshape(len(up), -1)
    scale = float(own.get("alpha", len(down))) / len(down)
    if "lora_mid.weight" in own:
        return scale * np.einsum("or,rskl,si->oikl", up, own["lora_mid.weight"], down.reshape(len(down), -1))
    return scale * np.tensordot(up, down, axes=1)


def _loha(own: Mapping[str, np.ndarray]) -> np.ndarray:
    halves = []
    for number in (1, 2):
        a, b = own[f"hada_w{number}_a"], own[f"hada_w{number}_b"]
        core = own.get(f"hada_t{number}")
        halves.append(a @ b if core is None else np.einsum("rskl,ro,si->oikl", core, a, b))
    rank = len(own["hada_w1_b"])
    return float(own.get("alpha", rank)) / rank * halves[0] * halves[1]


def _lokr(own: Mapping[str, np.ndarray]) -> np.ndarray:
    halves, rank = [], 0
    for number in (1, 2):
        if f"lokr_w{number}" in own:
            halves.append(own[f"lokr_w{number}"])
            continue
        a, b = own[f"lokr_w{number}_a"], own[f"lokr_w{number}_b"]
        core = own.get(f"lokr_t{number}")
        rank = len(b)
        halves.append(a @ b if core is None else np.einsum("rskl,ro,si->oikl", core, a, b))
    left, right = halves
    if right.ndim == 4:
        left = left[:, :, None, None]
    return (float(own.get("alpha", rank)) / rank if rank else 1.0) * np.kron(left, right)


def flat(matrix: np.ndarray) -> np.ndarray:
    return matrix.reshape(len(matrix), -1)
