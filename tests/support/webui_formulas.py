"""How A1111 1.10 and Forge turn a layer of a LoRA file into a change of its weight, written anew as dense float64.

Read from A1111's extensions-builtin/Lora (network.py, network_lora.py, network_hada.py, network_lokr.py) and Forge's
backend/patcher/lora.py; nothing of lib_addift is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

Parts = Mapping[str, np.ndarray]


def split(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """Layer -> part -> values."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        layers.setdefault(name, {})[part] = tensor.double().numpy()
    return layers


def change(parts: Parts, weight: np.ndarray, multiplier: float = 1.0) -> np.ndarray:
    """calc_updown and finalize_updown: what is added to `weight` at this multiplier."""
    dense, dim = _dense(parts, weight)
    scale = parts["alpha"].item() / dim if dim is not None and "alpha" in parts else 1.0
    updown = dense.reshape(weight.shape) * scale
    if "dora_scale" in parts:
        merged = updown + weight
        columns = merged.swapaxes(0, 1).reshape(weight.shape[1], -1)
        norm = np.sqrt((columns**2).sum(axis=1)).reshape(1, -1, *[1] * (weight.ndim - 2))
        updown = merged * (parts["dora_scale"] / norm) - weight
    return updown * multiplier


def _dense(parts: Parts, weight: np.ndarray) -> tuple[np.ndarray, int | None]:
    """The product of the factors, and by what alpha is divided (None: alpha does not count)."""
    if "lora_up.weight" in parts:
        up, down = parts["lora_up.weight"], parts["lora_down.weight"]
        if "lora_mid.weight" in parts:
            dense = np.einsum("nmkl,in,mj->ijkl", parts["lora_mid.weight"], _flat(up), _flat(down))
            return dense, down.shape[0]
        return _flat(up) @ _flat(down), down.shape[0]
    if "hada_w1_a" in parts:
        first, second = (_hada(parts, number) for number in (1, 2))
        return first * second, parts["hada_w1_b"].shape[0]
    return _kronecker(parts, weight)


def _hada(parts: Parts, number: int) -> np.ndarray:
    a, b = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    if f"hada_t{number}" in parts:
        return np.einsum("ijkl,jr,ip->prkl", parts[f"hada_t{number}"], b, a)
    return a @ _flat(b)


def _kronecker(parts: Parts, weight: np.ndarray) -> tuple[np.ndarray, int | None]:
    dim = None
    if "lokr_w1" in parts:
        w1 = parts["lokr_w1"]
    else:
        w1, dim = parts["lokr_w1_a"] @ parts["lokr_w1_b"], parts["lokr_w1_b"].shape[0]
    if "lokr_w2" in parts:
        w2 = parts["lokr_w2"]
    else:
        a, b, dim = parts["lokr_w2_a"], parts["lokr_w2_b"], parts["lokr_w2_b"].shape[0]
        w2 = np.einsum("ijkl,jr,ip->prkl", parts["lokr_t2"], b, a) if "lokr_t2" in parts else a @ b
    if w2.ndim == 4:
        w1 = w1[:, :, None, None]
    return np.kron(w1, w2).reshape(weight.shape), dim


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)
