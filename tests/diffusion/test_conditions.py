"""Conditions: one value for what the UNet is conditioned on, with or without a vector beside the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from lib_addift.diffusion.conditions import Conditions, encode_to_length

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
