"""Conditions: one value for what the UNet is conditioned on, with or without a vector beside the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions, encode_to_length
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost

WIDTH, NUMBERS = 3, 2


def conditions(batch: int, tokens: int = 4, *, vector: bool) -> Conditions:
    crossattn = torch.arange(batch * tokens * WIDTH, dtype=torch.float64).view(batch, tokens, WIDTH)
    return Conditions(crossattn, torch.arange(batch * NUMBERS).view(batch, NUMBERS).double() if vector else None)


def same(ours: Conditions, theirs: Conditions) -> bool:
    if ours.vector is None or theirs.vector is None:
        return ours.vector is theirs.vector and torch.equal(ours.crossattn, theirs.crossattn)
    return torch.equal(ours.crossattn, theirs.crossattn) and torch.equal(ours.vector, theirs.vector)


@pytest.mark.parametrize("vector", [False, True])
def test_what_is_split_can_be_put_together_again(vector: bool) -> None:
    whole = conditions(3, vector=vector)
    parts = whole.split()
    assert [len(part) for part in parts] == [1, 1, 1]
    assert same(Conditions.cat(parts), whole)
    assert same(Conditions.cat([whole[:2], whole[2:]]), whole)


@pytest.mark.parametrize("vector", [False, True])
def test_a_prompt_is_expanded_and_a_batch_repeated(vector: bool) -> None:
    one, two = conditions(1, vector=vector), conditions(2, vector=vector)
    assert same(one.expand(3), Conditions.cat([one] * 3))
    assert same(two.expand(2), two)
    assert same(two.repeat(2), Conditions.cat([two, two]))
    with pytest.raises(RuntimeError):
        two.expand(3)


@pytest.mark.parametrize("vector", [False, True])
def test_both_parts_get_another_type(vector: bool) -> None:
    cond = conditions(2, vector=vector)
    for changed, dtype in ((cond.float(), torch.float32), (cond.to(dtype=torch.bfloat16), torch.bfloat16)):
        assert changed.crossattn.dtype is dtype
        assert changed.vector is None or changed.vector.dtype is dtype
    assert cond.to(torch.device("meta")).crossattn.device.type == "meta"


def test_the_shape_is_that_of_one_prompt() -> None:
    assert conditions(2, vector=False).shape == conditions(1, vector=False).shape == (4, WIDTH)
    assert conditions(2, vector=True).shape == (4, WIDTH, NUMBERS)
    assert conditions(1, tokens=8, vector=False).shape != conditions(1, vector=False).shape


def test_conditions_with_and_without_a_vector_are_no_batch() -> None:
    with pytest.raises(ValueError, match="1 of 2 conditions have a vector"):
        Conditions.cat([conditions(1, vector=True), conditions(1, vector=False)])


@pytest.mark.parametrize("vector", [False, True])
def test_short_conditions_are_filled_with_the_empty_prompt(vector: bool) -> None:
    def encode(prompts: Sequence[str]) -> Conditions:
        tensors = [torch.full((1, 2, WIDTH), float(len(prompt))) for prompt in prompts]
        pooled = torch.tensor([[float(len(prompt))] for prompt in prompts])
        return Conditions(torch.cat(tensors), pooled if vector else None)

    filled = encode_to_length(encode, ["abc", "d"], 6)
    assert filled.crossattn[:, :, 0].tolist() == [[3, 3, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert filled.vector is None or filled.vector.tolist() == [[3], [1]], "of the prompt itself"
    assert same(encode_to_length(encode, ["abc", "d"], 2), encode(["abc", "d"]))


class VectorHost(FakeHost):
    """Its conditions have a vector, as SDXL's have: the length of each prompt. The UNet does not use it."""

    def encode_prompts_with_grad(self, prompts: Sequence[str]) -> Conditions:
        vector = torch.tensor([[float(len(prompt))] for prompt in prompts])
        return Conditions(super().encode_prompts_with_grad(prompts).crossattn, vector)

    def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
        assert cond.vector is not None
        assert cond.vector.shape == (len(latents), 1)
        # The conditions of the fake model begin with the sine of the prompt's length, where no LoRA changes them.
        if not any(module._forward_hooks for module in self.text_model.modules()):
            torch.testing.assert_close(cond.crossattn[:, 0, :1], cond.vector.sin())
        return super().predict_noise(latents, timesteps, cond)


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_each_sample_of_a_run_has_the_vector_of_its_prompt(tmp_path: Path, train_text_encoder: bool) -> None:
    config = TrainConfig.create(
        "action", max_train_steps=2, sampling_steps=2, self_regularisation=1.0, target_prompt="a closed eye",
        preview_prompt="a face", train_text_encoder=train_text_encoder,
    )  # fmt: skip
    original, target = (np.full((64, 64, 3), value, np.uint8) for value in (60, 180))
    learnt = []
    for kind in (FakeHost, VectorHost):
        host = kind(tmp_path / kind.__name__)
        host.lora_dir.mkdir()
        run = TrainingRun(host, Request.of(original, target, "name", config))
        list(run.events())
        learnt.append(read_lora(run.results[0].path)[0])
    assert learnt[0].keys() == learnt[1].keys()
    assert all(torch.equal(learnt[0][key], learnt[1][key]) for key in learnt[0])
