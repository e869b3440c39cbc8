"""The models of SD1.x in diffusers and transformers, built for the tensors of a checkpoint.

All widths are read off the tensors, so that a narrow model loads like a full-size one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib_addift.errors import HostError

_TOKENS = 49408  # of CLIP's vocabulary

State = dict[str, torch.Tensor]  # with diffusers' and transformers' names


def loaded(what: str, build: Callable[[State], Any], state: State, dtype: torch.dtype, device: torch.device) -> Any:
    """The frozen model that `build` makes for the tensors, which become its weights without being copied.

    Raises HostError, which names the part of the checkpoint (`what`), when the tensors do not fit the model.
    """
    cast = {key: value.to(device, dtype) for key, value in state.items()}
    try:
        module = build(state)
        missing, unexpected = module.load_state_dict(cast, strict=False, assign=True)
        problem = f"{len(missing)} tensors are missing and {len(unexpected)} unknown, such as"
        problem = f"{problem} {[*missing, *unexpected][0]}" if missing or unexpected else ""
    except KeyError as error:  # of a tensor from which a width is read
        problem = f"{error.args[0]} is missing"
    except (ValueError, RuntimeError, IndexError, ArithmeticError) as error:  # for impossible widths and shapes
        problem = (str(error).splitlines() or [type(error).__name__])[-1].strip().rstrip(".")
    if problem:
        raise HostError(f"the checkpoint's {what} is not SD1.x ({problem}). Choose an SD1.5 checkpoint.")
    return module.to(device).eval().requires_grad_(False)  # `to` moves the buffers that are not in the state dict


def build_unet(state: State) -> UNet2DConditionModel:
    """SD1.x's UNet without weights. Raises KeyError for a tensor that is missing."""
    widths = tuple(state[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(4))
    context = state["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64, block_out_channels=widths, cross_attention_dim=context, attention_head_dim=8
        )


def build_vae(state: State) -> AutoencoderKL:
    """SD1.x's VAE without weights. Raises KeyError for a tensor that is missing."""
    widths = tuple(state[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(4))
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )


def build_text_model(state: State) -> CLIPTextModel:
    """SD1.x's text model, with random weights. Raises KeyError for a tensor that is missing."""
    tokens, width = state["embeddings.token_embedding.weight"].shape
    if tokens < _TOKENS:
        raise ValueError(f"it knows {tokens} tokens, and the tokenizer has {_TOKENS}")
    layers = len({key.split(".")[2] for key in state if key.startswith("encoder.layers.")})
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=12,  # CLIP ViT-L/14's, at every width
        max_position_embeddings=77,
    )
    # Not on meta: the position ids are a buffer outside the state dict.
    model = CLIPTextModel(config)
    return getattr(model, "text_model", model)  # transformers 5 has no wrapper around it
