"""The tensors of a LoRA file, layer by layer: the kind of each layer, its matrices, and the layer that they make.

A key is a layer's name, a dot and a part: 'lora_unet_conv_in.lora_down.weight'. Parts and shapes are those of
kohya-ss/sd-scripts and LyCORIS, as A1111 and Forge read them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import nn

from lib_addift.errors import LoraFileError
from lib_addift.lora.dora import DoraLayer
from lib_addift.lora.layers import DeltaLayer, LoraLayer, conv_arguments, frozen_weight
from lib_addift.lora.lycoris import LohaLayer, LokrLayer

DOWN, UP, ALPHA, DORA = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"

Parts = Mapping[str, torch.Tensor]
Matrix = tuple[
    torch.Tensor, ...
]  # (up, down), whose product is the matrix; or the matrix alone, where it is stored whole

_PART = re.compile(r"\.(?=lora_|hada_|lokr_|(?:alpha|dora_scale)$)")
_LORA = {"lora_down.weight", "lora_up.weight"}
_LOHA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
_LOKR_FIRST = ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
_LOKR_SECOND = ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"})
# The sets of parts that make a layer, by kind; alpha may be missing.
_KINDS: dict[str, list[set[str]]] = {
    "LoRA": [_LORA, _LORA | {"lora_mid.weight"}],
    "DoRA": [_LORA | {"dora_scale"}],
    "LoHa": [_LOHA, _LOHA | {"hada_t1", "hada_t2"}],
    "LoKr": [first | second for first in _LOKR_FIRST for second in _LOKR_SECOND],
}
FACTORS = set().union(*(parts for kinds in _KINDS.values() for parts in kinds)) - {
    "dora_scale"
}  # all that are matrices


def layer_name(key: str) -> str:
    """The layer that a tensor belongs to."""
    return _PART.split(key, maxsplit=1)[0]


def by_layer(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Layer -> part -> key. A key that has no known part is a layer without a part of its own name, ''."""
    layers: dict[str, dict[str, str]] = {}
    for key in keys:
        name = layer_name(key)
        layers.setdefault(name, {})[key[len(name) + 1 :]] = key
    return layers


def has_weights(parts: Collection[str]) -> bool:
    """Whether any of a layer's weights are among the parts."""
    return not FACTORS.isdisjoint(parts)


def is_whole(parts: Collection[str]) -> bool:
    """Whether the parts make a layer; other parts may be among them."""
    return any(choice <= set(parts) for choices in _KINDS.values() for choice in choices)


def kind_of(parts: Collection[str]) -> str | None:
    """LoRA, DoRA, LoHa or LoKr; None where these parts do not make a layer."""
    present = set(parts) - {"alpha"}
    return next((kind for kind, choices in _KINDS.items() if present in choices), None)


def rank_and_alpha(parts: Parts) -> tuple[int, float]:
    """Rank and alpha of a layer that `has_weights`; a missing alpha equals the rank.

    A LoKr with whole factors has no rank of its own; LyCORIS writes the configured rank as its alpha.
    """
    alpha = parts.get("alpha")
    names = ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    ranks = [parts[name].shape[0] for name in names if name in parts]
    if not ranks:
        ranks = [min(parts["lokr_w2"].flatten(1).shape) if alpha is None else max(1, round(float(alpha.double())))]
    return ranks[0], float(ranks[0] if alpha is None else alpha.double())


def scale_of(parts: Parts) -> float:
    """alpha / rank; 1 for a LoKr with whole factors, where readers ignore alpha."""
    if {"lokr_w1", "lokr_w2"} <= set(parts):
        return 1.0
    rank, alpha = rank_and_alpha(parts)
    return alpha / rank


def matrices_of(parts: Parts) -> list[Matrix]:
    """The matrices that a layer of a known kind is made of, with a Tucker core multiplied into `down`.

    One for LoRA and DoRA: up (out, rank) or (out, rank, 1, 1), down (rank, in) or (rank, in, k, k). Two for LoHa, which
    multiplies them entry by entry, and for LoKr, which takes their Kronecker product and may store either one whole.
    """
    if "lora_up.weight" in parts:
        up, down, core = parts["lora_up.weight"], parts["lora_down.weight"], parts.get("lora_mid.weight")
        return [(up, down if core is None else _with_core(core, down))]
    prefix = "hada" if "hada_w1_a" in parts else "lokr"
    return [_lycoris_matrix(parts, f"{prefix}_w{number}", f"{prefix}_t{number}") for number in (1, 2)]


def _lycoris_matrix(parts: Parts, name: str, core: str) -> Matrix:
    if name in parts:
        return (parts[name],)
    first, second = parts[f"{name}_a"], parts[f"{name}_b"]
    return (first.T, _with_core(parts[core], second)) if core in parts else (first, second)


def _with_core(core: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The core (rank, r, k, k) of a Tucker decomposition and its factor (r, in) as one factor (rank, in, k, k)."""
    return torch.einsum("rskl,si->rikl", core, down.flatten(1))


def input_width(parts: Parts) -> int:
    """The input channels of a linear layer; 0 where the parts do not tell."""
    choices = [("lora_down.weight",)], [("hada_w1_b",)], [("lokr_w1", "lokr_w1_b"), ("lokr_w2", "lokr_w2_b")]
    for factors in choices:
        widths = [next((parts[name].shape[1] for name in names if name in parts), 0) for names in factors]
        if all(widths):
            return math.prod(widths)
    return 0


def read_layer(name: str, parts: Parts, layer: nn.Module | None) -> DeltaLayer:
    """Build the layer `name` of a file over the model's `layer` of that name. Raises LoraFileError."""
    kind = kind_of(parts)
    if kind is None:
        key = ".".join(filter(None, (name, _strangest(parts))))
        raise LoraFileError(
            f"'{key}' and what else its layer has make no whole {', '.join(_KINDS)}: get or train another file."
        )
    if kind == "DoRA" and parts["dora_scale"].shape[:1] != (1,):
        raise LoraFileError(
            f"'{name}.dora_scale' is one for each output channel, which A1111 and Forge read differently: "
            "train the LoRA with wd_on_output=False."
        )
    if layer is None:
        raise LoraFileError(f"the LoRA has a layer '{name}' that this model does not have: it is for another model.")
    try:
        return _MAKERS[kind](parts, layer)
    except (ValueError, IndexError, RuntimeError) as error:  # torch raises these for shapes that do not fit
        raise LoraFileError(
            f"layer '{name}' of the LoRA does not fit this model's: it is for another model."
        ) from error


def _strangest(parts: Collection[str]) -> str:
    """The part to name in the message: an unknown one rather than a known one."""
    return min(parts, key=lambda part: (part in FACTORS, part == "alpha", part))


def _make_lora(parts: Parts, layer: nn.Module) -> LoraLayer:
    ((up, down),), weight = _float_matrices(parts), frozen_weight(layer)
    _check((up.shape[0], *down.shape[1:]) == weight.shape and up.shape[1] == len(down))
    down, up = down.to(weight.device), up.to(weight.device)
    alpha, conv = rank_and_alpha(parts)[1], conv_arguments(layer)
    if "dora_scale" not in parts:
        return LoraLayer(down, up, alpha, conv)
    dora_scale = parts["dora_scale"].to(weight.device)
    _check(dora_scale.shape == (1, weight.shape[1], *[1] * (weight.ndim - 2)))
    return DoraLayer(down, up, alpha, conv, dora_scale=dora_scale, layer=layer)


def _make_loha(parts: Parts, layer: nn.Module) -> LohaLayer:
    weight = frozen_weight(layer)
    factors = []
    for up, down in _float_matrices(parts):
        flat = down.flatten(1)  # (rank, in * k * k)
        _check((len(up), flat.shape[1]) == (len(weight), weight[0].numel()) and up.shape[1] == len(flat))
        factors += [up.to(weight.device), flat.to(weight.device)]
    return LohaLayer(factors, rank_and_alpha(parts)[1], weight.shape[2:], conv_arguments(layer))


def _make_lokr(parts: Parts, layer: nn.Module) -> LokrLayer:
    weight = frozen_weight(layer)
    first, second = _float_matrices(parts)
    w1 = first[0] if len(first) == 1 else first[0] @ first[1]
    # of a whole w2, alpha applies to the rank of w1, if that is decomposed
    w2 = [second[0] * scale_of(parts)] if len(second) == 1 else [second[0], second[1].flatten(1)]
    columns = w1.shape[1] * w2[-1].flatten(1).shape[1]
    _check((len(w1) * len(w2[0]), columns) == (len(weight), weight[0].numel()))
    _check(weight.shape[1] % w1.shape[1] == 0 and (len(w2) == 1 or w2[0].shape[1] == len(w2[1])))
    w2 = [each.to(weight.device) for each in w2]
    return LokrLayer(w1.to(weight.device), w2, rank_and_alpha(parts)[1], weight.shape[2:], conv=conv_arguments(layer))


def _float_matrices(parts: Parts) -> list[Matrix]:
    return matrices_of({part: tensor.float() for part, tensor in parts.items()})


_MAKERS: dict[str, Callable[[Parts, nn.Module], DeltaLayer]] = {
    "LoRA": _make_lora,
    "DoRA": _make_lora,
    "LoHa": _make_loha,
    "LoKr": _make_lokr,
}


def _check(fits: bool) -> None:
    if not fits:
        raise ValueError
