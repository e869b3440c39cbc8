"""The norm and rank of a LoRA's change in each block and layer: what `lora show` prints and the tab shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_addift.errors import LoraFileError, printable
from lib_addift.lora.arithmetic import singular_values
from lib_addift.lora.blocks import block_of
from lib_addift.lora.factors import read_factors
from lib_addift.lora.file import describe
from lib_addift.lora.source import open_lora


@dataclass(frozen=True)
class LayerFigures:
    """One layer. `norm` is the Frobenius norm of its change of weight at weight 1."""

    name: str
    rank: int
    effective_rank: float
    norm: float


@dataclass(frozen=True)
class BlockFigures:
    """The layers of one block together; `share` is theirs of the LoRA's energy, the sum of squared norms."""

    name: str
    layers: int
    norm: float
    share: float
    effective_rank: float  # the mean of its layers


@torch.no_grad()
def layer_figures(path: Path) -> list[LayerFigures]:
    """Every layer, one in memory at a time. Of a DoRA the low-rank part counts. Raises LoraFileError."""
    figures = []
    with open_lora(path) as source:
        for name in source.layers:
            try:
                tensors = source.tensors(name)
                tensors.pop("dora_scale", None)
                layer = read_factors(name, tensors)
            except LoraFileError as error:
                raise LoraFileError(f"'{source.title}': {error}") from None
            values = singular_values(layer)
            figures.append(LayerFigures(name, layer.rank, effective_rank(values), float(values.norm())))
    return figures


def effective_rank(values: torch.Tensor) -> float:
    """exp of the entropy of the singular values' shares; 0 for nothing. Source: Roy & Vetterli 2007, definition 1."""
    total = float(values.sum())
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return math.exp(-float((shares * shares.log()).sum()))


def block_figures(layers: Sequence[LayerFigures]) -> list[BlockFigures]:
    """The blocks that have layers, in the order of the UNet."""
    energy = sum(layer.norm**2 for layer in layers) or 1.0
    by_block: dict[str, list[LayerFigures]] = {}
    for layer in layers:
        by_block.setdefault(block_of(layer.name), []).append(layer)
    result = []
    for name in sorted(by_block, key=_order):
        members = by_block[name]
        own = sum(layer.norm**2 for layer in members)
        mean_rank = sum(layer.effective_rank for layer in members) / len(members)
        result.append(BlockFigures(name, len(members), math.sqrt(own), own / energy, mean_rank))
    return result


def _order(block: str) -> tuple[int, str]:
    """TE, IN, MID, OUT, and what is in none of them."""
    sides = ("TE", "IN", "MID", "OUT")
    side = block.rstrip("0123456789")
    return (sides.index(side) if side in sides else len(sides)), block


def show(path: Path, *, each_layer: bool = False) -> str:
    """The description of the file, then a table of its blocks and, with `each_layer`, of its layers."""
    layers = layer_figures(path)
    lines = [describe(path), "", f"{'Block':<8}{'layers':>7}{'norm':>11}{'energy':>9}{'effective rank':>16}"]
    lines += [
        f"{block.name:<8}{block.layers:>7}{block.norm:>11.4g}{block.share:>9.1%}{block.effective_rank:>16.2f}"
        for block in block_figures(layers)
    ]
    if each_layer:
        width = max(len(layer.name) for layer in layers)
        lines += ["", f"{'Layer':<{width}}{'rank':>6}{'effective':>11}{'norm':>11}"]
        lines += [
            f"{printable(layer.name):<{width}}{layer.rank:>6}{layer.effective_rank:>11.2f}{layer.norm:>11.4g}"
            for layer in layers
        ]
    return "\n".join(lines)
