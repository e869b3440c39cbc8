"""Which layers of a UNet a LoRA learns: by their kind and by their block, as the names in LoRA files tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from torch import nn

_KINDS = {
    "self_attention": re.compile(r"_attn1_to_"),
    "cross_attention": re.compile(r"_attn2_to_"),
    "feed_forward": re.compile(r"_ff_net_"),
    "projections": re.compile(r"_proj_(in|out)$"),
    "convolutions": re.compile(
        r"_(resnets_\d_(conv1|conv2|conv_shortcut|time_emb_proj)|(down|up)samplers_0_conv"
        r"|in_layers_2|out_layers_3|skip_connection|emb_layers_1|blocks_\d_0_op|blocks_\d_2_conv)$"  # CompVis' names
    ),
}
_BLOCKS = {
    "IN": ("lora_unet_down_blocks", "lora_unet_input_blocks"),
    "MID": ("lora_unet_mid_block", "lora_unet_middle_block"),
    "OUT": ("lora_unet_up_blocks", "lora_unet_output_blocks"),
}


def layer_kind(lora_name: str) -> str | None:
    """The kind (config.LAYER_KINDS) of a layer, or None for a layer that LoRA files do not support."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(lora_name)), None)


def select_layers(
    unet: nn.Module, lora_name: Callable[[str], str], *, layers: Collection[str], blocks: Collection[str]
) -> dict[str, nn.Module]:
    """The UNet's layers to train, by LoRA name, in the UNet's own order.

    Linear layers are recognised by `in_features`, convolutions by `kernel_size`: hosts have classes of their own.
    """
    prefixes = tuple(prefix for block in blocks for prefix in _BLOCKS[block])
    chosen = {}
    for module_name, module in unet.named_modules():
        if hasattr(module, "in_features") or hasattr(module, "kernel_size"):
            name = lora_name(module_name)
            if layer_kind(name) in layers and name.startswith(prefixes):
                chosen[name] = module
    return chosen
