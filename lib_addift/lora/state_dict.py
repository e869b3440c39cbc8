"""A LoRA file's tensors, layer by layer: of which kind a layer is, and the layer that they make.

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
_ALL_PARTS = set().union(*(parts for kinds in _KINDS.values() for parts in kinds)) - {"dora_scale"}


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
    """Whether there is anything of a layer that can be read."""
    return not _ALL_PARTS.isdisjoint(parts)


def is_whole(parts: Collection[str]) -> bool:
    """Whether they make a layer, whatever else is among them."""
    return any(choice <= set(parts) for choices in _KINDS.values() for choice in choices)


def kind_of(parts: Collection[str]) -> str | None:
    """LoRA, DoRA, LoHa or LoKr; None where these parts do not make a layer."""
    present = set(parts) - {"alpha"}
    return next((kind for kind, choices in _KINDS.items() if present in choices), None)


def rank_and_alpha(parts: Parts) -> tuple[int, float]:
    """Of a layer that `has_weights`; without alpha it acts as if that were the rank.

    A LoKr with whole factors has no rank of its own: the one that was asked for is its alpha, as LyCORIS writes it.
    """
    alpha = parts.get("alpha")
    names = ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    ranks = [parts[name].shape[0] for name in names if name in parts]
    if not ranks:
        ranks = [min(parts["lokr_w2"].flatten(1).shape) if alpha is None else max(1, round(float(alpha)))]
    return ranks[0], float(ranks[0] if alpha is None else alpha)


def input_width(parts: Parts) -> int:
    """How many channels a linear layer reads; 0 where that is not told."""
    choices = [("lora_down.weight",)], [("hada_w1_b",)], [("lokr_w1", "lokr_w1_b"), ("lokr_w2", "lokr_w2_b")]
    for factors in choices:
        widths = [next((parts[name].shape[1] for name in names if name in parts), 0) for names in factors]
        if all(widths):
            return math.prod(widths)
    return 0


def read_layer(name: str, parts: Parts, layer: nn.Module | None) -> DeltaLayer:
    """The change that a file has under `name`, of the model's layer of that name. Raises LoraFileError."""
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
        return _READERS[kind](parts, layer)
    except (ValueError, IndexError, RuntimeError) as error:  # what torch says of shapes that do not go together
        raise LoraFileError(
            f"layer '{name}' of the LoRA does not fit this model's: it is for another model."
        ) from error


def _strangest(parts: Collection[str]) -> str:
    """The part to name, where the parts make no layer: an unknown one rather than a known one."""
    return min(parts, key=lambda part: (part in _ALL_PARTS, part == "alpha", part))


def _read_lora(parts: Parts, layer: nn.Module) -> LoraLayer:
    down, up, weight = parts["lora_down.weight"], parts["lora_up.weight"], frozen_weight(layer)
    if "lora_mid.weight" in parts:
        down = _with_core(parts["lora_mid.weight"], down)
    _check((up.shape[0], *down.shape[1:]) == weight.shape and up.shape[1] == len(down))
    down, up = down.to(weight.device), up.to(weight.device)
    alpha, conv = rank_and_alpha(parts)[1], conv_arguments(layer)
    if "dora_scale" not in parts:
        return LoraLayer(down, up, alpha, conv)
    dora_scale = parts["dora_scale"].to(weight.device)
    _check(dora_scale.shape == (1, weight.shape[1], *[1] * (weight.ndim - 2)))
    return DoraLayer(down, up, alpha, conv, dora_scale=dora_scale, layer=layer)


def _read_loha(parts: Parts, layer: nn.Module) -> LohaLayer:
    weight = frozen_weight(layer)
    factors = []
    for number in (1, 2):
        first, second = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
        core = parts.get(f"hada_t{number}")
        if core is not None:
            first, second = first.T, _with_core(core, second).flatten(1)
        _check((len(first), second.shape[1]) == (len(weight), weight[0].numel()) and first.shape[1] == len(second))
        factors += [first.to(weight.device), second.to(weight.device)]
    return LohaLayer(factors, rank_and_alpha(parts)[1], weight.shape[2:], conv_arguments(layer))


def _read_lokr(parts: Parts, layer: nn.Module) -> LokrLayer:
    weight = frozen_weight(layer)
    rank, alpha = rank_and_alpha(parts)
    w1 = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"].float() @ parts["lokr_w1_b"].float()
    if "lokr_t2" in parts:
        w2 = [parts["lokr_w2_a"].T, _with_core(parts["lokr_t2"], parts["lokr_w2_b"]).flatten(1)]
    elif "lokr_w2_a" in parts:
        w2 = [parts["lokr_w2_a"], parts["lokr_w2_b"].flatten(1)]
    else:  # alpha counts by the rank of a decomposed w1, and not at all beside a whole one
        w2 = [parts["lokr_w2"].float() * (1 if "lokr_w1" in parts else alpha / rank)]
    columns = w1.shape[1] * w2[-1].flatten(1).shape[1]
    _check((len(w1) * len(w2[0]), columns) == (len(weight), weight[0].numel()))
    _check(weight.shape[1] % w1.shape[1] == 0 and (len(w2) == 1 or w2[0].shape[1] == len(w2[1])))
    w2 = [each.to(weight.device) for each in w2]
    return LokrLayer(w1.to(weight.device), w2, alpha, weight.shape[2:], conv=conv_arguments(layer))


_READERS: dict[str, Callable[[Parts, nn.Module], DeltaLayer]] = {
    "LoRA": _read_lora,
    "DoRA": _read_lora,
    "LoHa": _read_loha,
    "LoKr": _read_lokr,
}


def _with_core(core: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The core (rank, r, k, k) of a Tucker decomposition and its factor (r, in) as one factor (rank, in, k, k)."""
    return torch.einsum("rskl,si->rikl", core.float(), second.flatten(1).float())


def _check(fits: bool) -> None:
    if not fits:
        raise ValueError
