"""OpenCLIP's names of SDXL's second text model, against diffusers' converter."""

from __future__ import annotations

import torch
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lib_addift.families import SDXL
from lib_addift.hosts.open_clip import from_transformers, to_transformers
from lib_addift.hosts.standalone_models import text_model


def model() -> torch.nn.Module:
    return text_model(SDXL.text_encoders[1], tokens=99, width=40, layers=3, fully_connected=160)


def test_there_and_back_is_the_same() -> None:
    state = model().state_dict()
    back = to_transformers(from_transformers(state))
    assert set(back) == set(state)
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_diffusers_reads_the_same_tensors() -> None:
    ours = model().state_dict()
    config = CLIPTextConfig(
        vocab_size=99, hidden_size=40, intermediate_size=160, num_hidden_layers=3, num_attention_heads=20,
        projection_dim=40,
    )  # fmt: skip
    prefix = "conditioner.embedders.1.model."
    file = {prefix + key: value for key, value in from_transformers(ours).items()}
    theirs = convert_open_clip_checkpoint(CLIPTextModelWithProjection(config), dict(file), prefix=prefix)
    theirs = {key.removeprefix("text_model."): value for key, value in theirs.items() if "position_ids" not in key}
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())


def test_what_it_does_not_use_is_left_out() -> None:
    assert to_transformers({"logit_scale": torch.zeros(()), "attn_mask": torch.zeros(2, 2)}) == {}
