"""The three names of every tensor of SD1.x and SDXL: CompVis (checkpoints, WebUIs), diffusers, and kohya (LoRA files).

A table gives the diffusers name of each block, the leading piece of a CompVis name; the rest of the name goes through
a second, smaller table. All of it follows from one topology, 2 residual blocks a level: SDXL's three levels have the
names of the first three of SD1.5's four, except for one upsampler.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lib_addift.families import SD15, SDXL, Family

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = SD15.text_encoders[0].prefix

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_LEVELS = 4
_FIRST_UPSAMPLER = "output_blocks.2.1.conv"  # where the UNet's deepest level has no attention
_TEXT_LAYER = re.compile(r"(?:text_model\.)?(encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12]))")

# Layers that only one family has, under either kind of name: its text models, depths of attention, and levels.
_OWN_LAYERS = {
    SDXL: re.compile(r"lora_te[12]_|lora_unet_\w+_transformer_blocks_[1-9]"),
    SD15: re.compile(
        r"lora_te_|lora_unet_(down_blocks_(0_attentions|3)|up_blocks_3|(in|out)put_blocks_(9|10|11)_|input_blocks_[12]_1_)"
    ),
}


def _unet_blocks() -> dict[str, str]:
    """CompVis block -> diffusers block, for the UNet."""
    blocks = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }
    for level in range(_LEVELS):
        for block in range(2):
            name = f"input_blocks.{3 * level + block + 1}"
            blocks[f"{name}.0"] = f"down_blocks.{level}.resnets.{block}"
            blocks[f"{name}.1"] = f"down_blocks.{level}.attentions.{block}"
        blocks[f"input_blocks.{3 * level + 3}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        for block in range(3):
            name = f"output_blocks.{3 * level + block}"
            blocks[f"{name}.0"] = f"up_blocks.{level}.resnets.{block}"
            blocks[f"{name}.1"] = f"up_blocks.{level}.attentions.{block}"
        blocks[f"output_blocks.{3 * level + 2}.2.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    # SD1.5's first up level has no attention, so its upsampler stands one place earlier.
    blocks[_FIRST_UPSAMPLER] = "up_blocks.0.upsamplers.0.conv"
    return blocks


def _vae_blocks() -> dict[str, str]:
    """CompVis block -> diffusers block, for the VAE."""
    blocks = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        blocks |= {
            f"{side}.conv_in": f"{side}.conv_in",
            f"{side}.conv_out": f"{side}.conv_out",
            f"{side}.norm_out": f"{side}.conv_norm_out",
            f"{side}.mid.block_1": f"{side}.mid_block.resnets.0",
            f"{side}.mid.attn_1": f"{side}.mid_block.attentions.0",
            f"{side}.mid.block_2": f"{side}.mid_block.resnets.1",
        }
    for level in range(_LEVELS):
        up = _LEVELS - 1 - level
        for block in range(2):
            blocks[f"encoder.down.{level}.block.{block}"] = f"encoder.down_blocks.{level}.resnets.{block}"
        for block in range(3):
            blocks[f"decoder.up.{level}.block.{block}"] = f"decoder.up_blocks.{up}.resnets.{block}"
        blocks[f"encoder.down.{level}.downsample.conv"] = f"encoder.down_blocks.{level}.downsamplers.0.conv"
        blocks[f"decoder.up.{level}.upsample.conv"] = f"decoder.up_blocks.{up}.upsamplers.0.conv"
    return blocks


_UNET_BLOCKS = _unet_blocks()
_VAE_BLOCKS = _vae_blocks()
_VAE_RESNET = {"nin_shortcut": "conv_shortcut"}


def _inverse(table: dict[str, str]) -> dict[str, str]:
    return {value: key for key, value in table.items()}


_COMPVIS_BLOCKS = _inverse(_UNET_BLOCKS)
_ATTENTION_BLOCKS = _inverse({key: value for key, value in _UNET_BLOCKS.items() if key != _FIRST_UPSAMPLER})


def _translate(name: str, blocks: dict[str, str], inner: dict[str, str]) -> str:
    """Replace the longest known block at the front of `name`, then the longest known piece of the rest."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        block = blocks.get(".".join(parts[:cut]))
        if block is not None:
            return ".".join([block, *_translate_rest(parts[cut:], inner)])
    raise KeyError(f"'{name}' is no name of a module of Stable Diffusion")


def _translate_rest(parts: list[str], inner: dict[str, str]) -> list[str]:
    for cut in range(len(parts), 0, -1):
        found = inner.get(".".join(parts[:cut]))
        if found is not None:
            return [found, *parts[cut:]]
    return parts


def unet_to_diffusers(name: str) -> str:
    """'input_blocks.1.1.proj_in' -> 'down_blocks.0.attentions.0.proj_in'. Works for modules and parameters alike."""
    return _translate(name, _UNET_BLOCKS, _RESNET)


def unet_to_compvis(name: str, family: Family = SD15) -> str:
    """The inverse of `unet_to_diffusers`."""
    return _translate(name, _ATTENTION_BLOCKS if family.depths[-1] else _COMPVIS_BLOCKS, _inverse(_RESNET))


def vae_to_diffusers(name: str) -> str:
    """'encoder.mid.attn_1.q.weight' -> 'encoder.mid_block.attentions.0.to_q.weight'."""
    return _translate(name, _VAE_BLOCKS, _VAE_ATTENTION if ".attn_1." in name else _VAE_RESNET)


def vae_to_compvis(name: str) -> str:
    """The inverse of `vae_to_diffusers`."""
    inner = _VAE_ATTENTION if ".attentions." in name else _VAE_RESNET
    return _translate(name, _inverse(_VAE_BLOCKS), _inverse(inner))


def kohya(diffusers_name: str, family: Family = SD15) -> str:
    """The LoRA file's name of a UNet module: 'lora_unet_' and a name with underscores, diffusers' or CompVis'.

    '' for a module that the family does not have.
    """
    try:
        name = unet_to_compvis(diffusers_name, family) if family.compvis_lora_names else diffusers_name
    except KeyError:  # a container, such as 'down_blocks', which no LoRA names
        return ""
    return "lora_unet_" + name.replace(".", "_")


def family_of_layers(lora_names: Iterable[str]) -> Family | None:
    """The family of a LoRA whose layers have these names; None where both have such layers."""
    for name in lora_names:
        for family, own in _OWN_LAYERS.items():
            if own.match(name):
                return family
    return None


def text_kohya(name: str, family: Family = SD15) -> str:
    """The LoRA file's name of a layer of the text model; '' for a module that LoRA files have no place for.

    'encoder.layers.0.mlp.fc1' -> 'lora_te_text_model_encoder_layers_0_mlp_fc1'. Some releases of transformers, and so
    some hosts, have 'text_model.' in front of it. Of two text models the name begins with the number, 0 or 1.
    """
    encoders = family.text_encoders
    number = 0
    if len(encoders) > 1:
        first, _, name = name.partition(".")
        number = int(first) if first.isdigit() else 0
    layer = _TEXT_LAYER.fullmatch(name)
    return f"{encoders[number].lora_prefix}text_model_{layer[1].replace('.', '_')}" if layer else ""
