"""Blocks of the UNet by the names of the extension LoRA Block Weight, and a weight for each of them.

SD1.5 has IN00 to IN11 and OUT00 to OUT11, SDXL IN00 to IN08 and OUT00 to OUT08.
IN01 is CompVis' input_blocks.1, OUT03 its output_blocks.3, MID its middle_block; BASE and TE are the text encoder.
IN and OUT stand for all of theirs, ALL for everything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lib_addift.errors import ConfigError
from lib_addift.lora.names import unet_to_compvis

OTHER = "OTHER"  # layers in no block: the time embedding and the last convolution
_SIDES = {"input_blocks": "IN", "output_blocks": "OUT"}
_FINE = tuple(f"{side}{number:02}" for side in ("IN", "OUT") for number in range(12))
_NAMES = ("ALL", "IN", "MID", "OUT", "TE", *_FINE)
_ALIASES = {"BASE": "TE", "M00": "MID"}
# The lists of LoRA Block Weight: of SD1.5 26 numbers for all blocks and 17 for those with attention, of SDXL 20 and 12.
_OF_26 = ("TE", *_FINE[:12], "MID", *_FINE[12:])
_WITHOUT_ATTENTION = {"IN00", "IN03", "IN06", "IN09", "IN10", "IN11", "OUT00", "OUT01", "OUT02"}
_XL_WITHOUT_ATTENTION = {"IN00", "IN01", "IN02", "IN03", "IN06", "OUT06", "OUT07", "OUT08"}
_OF_20 = tuple(name for name in _OF_26 if not name.endswith(("09", "10", "11")))
_LISTS = {
    26: _OF_26,
    17: tuple(name for name in _OF_26 if name not in _WITHOUT_ATTENTION),
    20: _OF_20,
    12: tuple(name for name in _OF_20 if name not in _XL_WITHOUT_ATTENTION),
}

_DIFFUSERS = re.compile(r"lora_unet_(down|up)_blocks_(\d)_(resnets|attentions|downsamplers|upsamplers)_(\d)")
_COMPVIS = re.compile(r"lora_unet_(input_blocks|output_blocks)_(\d+)_")


def block_of(layer: str) -> str:
    """The block of a layer with a kohya name: IN00 to IN11, MID, OUT00 to OUT11, TE or OTHER."""
    if layer.startswith("lora_te"):
        return "TE"
    if layer.startswith(("lora_unet_mid_block_", "lora_unet_middle_block_")):
        return "MID"
    found = _COMPVIS.match(layer)
    side, number = found.groups() if found else _compvis_block(layer)
    return f"{_SIDES[side]}{int(number):02}" if side else OTHER


def _compvis_block(layer: str) -> tuple[str, str]:
    """'lora_unet_down_blocks_1_...' -> ('input_blocks', '4'); two empty words for what is in no such block."""
    found = _DIFFUSERS.match(layer)
    if not found:
        return ("input_blocks", "0") if layer == "lora_unet_conv_in" else ("", "")
    side, level, kind, number = found.groups()
    conv = ".conv" if kind.endswith("samplers") else ""
    try:
        blocks, index, *_ = unet_to_compvis(f"{side}_blocks.{level}.{kind}.{number}{conv}").split(".")
    except KeyError:  # of another kind of model
        return "", ""
    return blocks, index


@dataclass(frozen=True)
class BlockWeights:
    """A factor for each block; 1 for blocks that are not named."""

    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> BlockWeights:
        """From 'OUT=1, MID=0.5', or from the 12, 17, 20 or 26 numbers of LoRA Block Weight. Raises ConfigError."""
        items = [item.strip() for item in text.split(",") if item.strip()]
        if items and not any("=" in item for item in items):
            if len(items) not in _LISTS:
                raise ConfigError(
                    f"blocks = {text.strip()} has {len(items)} numbers: give 17 or 26 for SD1.5, 12 or 20 for SDXL, or "
                    "names as in OUT=1, MID=0.5."
                )
            return cls({name: _number(name, item) for name, item in zip(_LISTS[len(items)], items, strict=True)})
        weights: dict[str, float] = {}
        for item in items:
            name, _, value = (part.strip() for part in item.partition("="))
            name = _ALIASES.get(name.upper(), name.upper())
            if name not in _NAMES:
                raise ConfigError(
                    f"'{item}' names no block: use ALL, IN, MID, OUT, TE, IN00 to IN11 or OUT00 to OUT11, as in OUT=1."
                )
            if name in weights:
                raise ConfigError(f"the block {name} has two weights: give it one.")
            weights[name] = _number(name, value)
        return cls(weights)

    def of(self, layer: str) -> float:
        """The factor of a layer: that of its own block, else of IN or OUT, else of ALL, else 1."""
        block = block_of(layer)
        known = (block, block.rstrip("0123456789"), "ALL")
        return next((self.weights[name] for name in known if name in self.weights), 1.0)

    def __str__(self) -> str:
        return ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items())


NO_WEIGHTS = BlockWeights()


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"the block {name} has '{text}' as its weight: give a number, as in {name}=0.5.")
    return value
