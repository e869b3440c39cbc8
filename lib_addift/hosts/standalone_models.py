"""The models of SD1.x and SDXL in diffusers and transformers, built for the tensors of a checkpoint.

All widths are read off the tensors, so that a narrow model loads like a full-size one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import HostError
from lib_addift.families import SIZE_WIDTH, Family, TextEncoder
from lib_addift.hosts.picture_sizes import picture_sizes

_TOKENS = 49408  # of CLIP's vocabulary

State = dict[str, torch.Tensor]  # with diffusers' and transformers' names


def loaded(
    what: str, build: Callable[[State], Any], state: State, family: Family, *, dtype: torch.dtype, device: torch.device
) -> Any:
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
        raise HostError(f"the checkpoint's {what} is not {family} ({problem}). Choose another checkpoint.")
    return module.to(device).eval().requires_grad_(False)  # `to` moves the buffers that are not in the state dict


def build_unet(state: State, family: Family) -> UNet2DConditionModel:
    """The family's UNet without weights. Raises KeyError for a tensor that is missing."""
    levels, depths = range(family.levels), family.depths
    widths = [state[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in levels]
    attended = next(level for level in levels if depths[level])
    context = state[f"down_blocks.{attended}.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    vector = state["add_embedding.linear_1.weight"].shape[1] if family.has_vector else None
    with torch.device("meta"):
        return UNet2DConditionModel(**unet_arguments(family, widths, context, vector), sample_size=64)


def unet_arguments(family: Family, widths: Sequence[int], context: int, vector: int | None) -> dict[str, Any]:
    """What `UNet2DConditionModel` is made with, for `widths` of the levels, of cross-attention and of the vector."""
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in family.depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(family.depths)]
    arguments = {
        "block_out_channels": tuple(widths), "down_block_types": tuple(down), "up_block_types": tuple(up),
        "cross_attention_dim": context, "attention_head_dim": 8,
    }  # fmt: skip
    if vector is None:
        return arguments
    return arguments | {
        # diffusers' argument is the number of heads; each has SDXL's 64 channels, or what a narrow level has of them
        "attention_head_dim": tuple(width // math.gcd(width, 64) for width in widths),
        "transformer_layers_per_block": tuple(depth or 1 for depth in family.depths), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": SIZE_WIDTH,
        "projection_class_embeddings_input_dim": vector,
    }  # fmt: skip


def build_vae(state: State) -> AutoencoderKL:
    """The VAE of both families without weights. Raises KeyError for a tensor that is missing."""
    widths = tuple(state[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(4))
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )


def build_text_model(state: State, encoder: TextEncoder) -> CLIPTextModel:
    """A family's text model, with random weights. Raises KeyError for a tensor that is missing."""
    tokens, width = state["embeddings.token_embedding.weight"].shape
    if tokens < _TOKENS:
        raise ValueError(f"it knows {tokens} tokens, and the tokenizer has {_TOKENS}")
    layers = len({key.split(".")[2] for key in state if key.startswith("encoder.layers.")})
    fully_connected = state["encoder.layers.0.mlp.fc1.weight"].shape[0]
    return text_model(encoder, tokens=tokens, width=width, layers=layers, fully_connected=fully_connected)


def text_model(encoder: TextEncoder, *, tokens: int, width: int, layers: int, fully_connected: int) -> CLIPTextModel:
    """A text model with random weights; at every width it has as many heads as the full-size release."""
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=fully_connected,
        num_hidden_layers=layers,
        num_attention_heads=encoder.heads,
        hidden_act=encoder.activation,
        max_position_embeddings=77,
    )
    # Not on meta: the position ids are a buffer outside the state dict.
    model = CLIPTextModel(config)
    model = getattr(model, "text_model", model)  # transformers 5 has no wrapper around it
    if encoder.has_projection:
        model.text_projection = nn.Linear(width, width, bias=False)  # of the pooled output; `encode` calls it
    return model


def encode_chunk(models: Sequence[Any], ids: Sequence[torch.Tensor], family: Family, clip_skip: int) -> Conditions:
    """The conditions of one chunk of each prompt: (B, 77) token ids for each model -> (B, 77, sum of the widths).

    As in A1111, clip skip leaves out layers, but not the final norm of a family that has it.
    """
    skips = clip_skip > 1  # only then, as transformers leaves hooks on the layers to hear of their states
    outputs = [model(input_ids=each, output_hidden_states=skips) for model, each in zip(models, ids, strict=True)]
    if clip_skip == 1:
        states = [output.last_hidden_state for output in outputs]
    else:
        states = [output.hidden_states[-clip_skip] for output in outputs]  # before each layer, and the end
        if family.final_norm:
            states = [model.final_layer_norm(state) for model, state in zip(models, states, strict=True)]
    pooled = [
        models[number].text_projection(outputs[number].pooler_output)
        for number, encoder in enumerate(family.text_encoders)
        if encoder.has_projection
    ]
    return Conditions(torch.cat(states, dim=-1), torch.cat(pooled, dim=-1) if pooled else None)


def run_unet(
    unet: UNet2DConditionModel, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions
) -> torch.Tensor:
    """The UNet's output, of the shape of the noisy `latents`."""
    sizes = None
    if cond.vector is not None:
        sizes = {"text_embeds": cond.vector, "time_ids": picture_sizes(latents)}
    output: torch.Tensor = unet(latents, timesteps, cond.crossattn, added_cond_kwargs=sizes).sample
    return output
