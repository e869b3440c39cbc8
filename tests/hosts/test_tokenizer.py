"""The tokenizer against CLIP's own, and prompts cut into chunks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from lib_addift.hosts.tokenizer import in_chunks, load_tokenizer, read_vocabulary
from tests.support.prompts import COMMA, A, framed


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("A  Photo\nof a CAT", [320, 1125, 539, 320, 2368]),
        ("hello world!", [3306, 1002, 256]),
        ("a, b", [320, 267, 321]),
        ("", []),
    ],
)
def test_tokens_are_clips(text: str, ids: list[int]) -> None:
    assert load_tokenizer()([text]).tolist() == [[framed(*ids)]]


def test_short_texts_are_padded_as_transformers_pads_them(tmp_path: Path) -> None:
    vocabulary, merges = read_vocabulary()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    texts = ["", "a photo of a cat, by night", "\U0001f600 ünï, 漢字", "(hat:1.2) [x] it's 2024"]
    ours = load_tokenizer()(texts)
    theirs = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    assert torch.equal(ours[:, 0], theirs)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (75, [75]), (76, [75, 1]), (150, [75, 75]), (160, [75, 75, 10])]
)
def test_long_texts_are_cut_every_75_tokens(count: int, sizes: list[int]) -> None:
    (chunks,) = load_tokenizer()(["a " * count]).tolist()
    assert chunks == [framed(*[A] * size) for size in sizes]


def test_texts_of_one_call_get_as_many_chunks_as_the_longest() -> None:
    ids = load_tokenizer()(["a", "a " * 80, ""])
    assert ids.shape == (3, 2, 77)
    assert ids.dtype is torch.long
    assert ids.tolist() == [[framed(A), framed()], [framed(*[A] * 75), framed(*[A] * 5)], [framed(), framed()]]


@pytest.mark.parametrize(
    ("commas", "length", "sizes"),
    [
        ([60], 80, [61, 19]),
        ([55], 80, [56, 24]),
        ([54], 80, [75, 5]),  # too far back
        ([60, 70], 80, [71, 9]),
        ([74], 80, [75, 5]),
        ([60, 75], 80, [75, 5]),  # the next token is a comma
        ([60], 75, [75]),  # nothing has to be cut
        ([60, 120], 160, [61, 60, 39]),
    ],
)
def test_a_chunk_ends_behind_a_comma_that_is_near_its_end(commas: list[int], length: int, sizes: list[int]) -> None:
    tokens = [COMMA if place in commas else A for place in range(length)]
    assert [len(chunk) for chunk in in_chunks(tokens, COMMA)] == sizes


@given(st.lists(st.sampled_from([A, A, A, COMMA]), max_size=400))
def test_no_token_is_lost_and_no_chunk_is_cut_too_early(tokens: list[int]) -> None:
    chunks = in_chunks(tokens, COMMA)
    assert [token for chunk in chunks for token in chunk] == tokens
    assert len(chunks) == 1 or all(chunks)
    for chunk in chunks[:-1]:
        assert 56 <= len(chunk) <= 75
        assert len(chunk) == 75 or chunk[-1] == COMMA
    assert len(chunks[-1]) <= 75
