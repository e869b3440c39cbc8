"""What stands in a prompt: the tags, their weights and words."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_addift.errors import ConfigError
from lib_addift.hosts.prompt_tag.syntax import (
    COMPOSITE,
    SWITCH,
    Composition,
    Tag,
    composition_of,
    has_tag,
    read_prompt,
    text_weights,
    with_mode,
)


@pytest.mark.parametrize(
    ("prompt", "plain", "tags"),
    [
        ("", "", []),
        ("a cat <lora:hat:0.5>", "a cat", [Tag("hat", 0.5, 0.5)]),
        ("<lora:hat>a cat", "a cat", [Tag("hat")]),
        ("<lora:hat:>a cat", "a cat", [Tag("hat")]),
        ("a <lora:two words:-1><lora:v1.5:.25> cat", "a  cat", [Tag("two words", -1, -1), Tag("v1.5", 0.25, 0.25)]),
        ("a <lora:größer:1e-1:0.3>", "a", [Tag("größer", 0.1, 0.3)]),
        ("a <lora:hat:te=0.3>", "a", [Tag("hat", 0.3, 0.3)]),
        ("a <lora:hat:1:to=500>", "a", [Tag("hat", low=500)]),
        ("<lora:a:from=9:to=10:compose=switch:every=2>", "", [Tag("a", 1, 1, 9, 10, SWITCH, 2)]),
        ("a < b, lora:hat:1", "a < b, lora:hat:1", []),
        ("<lora::1>", "<lora::1>", []),
    ],
)
def test_tags_are_told_from_the_prompt(prompt, plain, tags):
    assert read_prompt(prompt) == (plain, tags)
    assert has_tag(prompt) == bool(tags)


@pytest.mark.parametrize("weight", ["much", "0,5", "nan", "1:x", "unet=x"])
def test_a_weight_that_is_no_number_is_refused(weight):
    with pytest.raises(
        ConfigError, match=rf"<lora:hat:{weight}>: the weight '.*' is no number: write for example 0\.8"
    ):
        read_prompt(f"a cat <lora:hat:{weight}>")


@pytest.mark.parametrize(
    ("prompt", "mode", "expected"),
    [
        ("a cat", SWITCH, "a cat"),
        ("<lora:a>, <lora:b:1:0.5>", SWITCH, "<lora:a:compose=switch>, <lora:b:1:0.5:compose=switch>"),
        ("<lora:a:1:compose=switch:every=2:from=900>", COMPOSITE, "<lora:a:1:from=900:compose=composite>"),
        ("<lora:a:1:compose=composite:every=2>", SWITCH, "<lora:a:1:every=2:compose=switch>"),
    ],
)
def test_one_word_for_all_tags(prompt, mode, expected):
    assert with_mode(prompt, mode) == expected
    assert {tag.mode for tag in read_prompt(expected)[1]} <= {mode}


def test_what_tags_ask_for_together():
    assert composition_of([]) == (Composition(), "")
    assert composition_of([Tag("a"), Tag("b", mode=SWITCH, every=4)]) == (Composition(SWITCH, 4), "")
    assert composition_of([Tag("a", mode=COMPOSITE)]) == (Composition(COMPOSITE), "")
    assert composition_of([Tag("a", mode=SWITCH), Tag("b", mode=COMPOSITE)])[0] == Composition()


def test_the_text_encoder_has_plain_tags_as_often_as_they_stand_and_others_once():
    tags = [Tag("a", 0.5), Tag("a", 0.5), Tag("b", 1.0, low=500), Tag("b", 0.3, high=500), Tag("c", 0.7, mode=SWITCH)]
    assert text_weights(tags) == [("a", 0.5), ("a", 0.5), ("b", 1.0), ("c", 0.7)]


UNFINISHED = ("<lora:a:", "<lora:", "<lora::", "<lora:a", "<", "<lora:a:1>", "<lora:a:b=c:", ":>")


@pytest.mark.parametrize("piece", UNFINISHED)
@pytest.mark.parametrize("tail", ["", ">", "<lora:hat:1>"])
def test_a_long_prompt_is_read_in_linear_time(piece, tail):
    """32 KB of unfinished tags once took seconds: each was compared with all that follows it."""
    prompt = piece * (200_000 // len(piece)) + tail
    begun = time.process_time()
    has_tag(prompt)
    with_mode(prompt, SWITCH)
    with contextlib.suppress(ConfigError):
        read_prompt(prompt)
    assert time.process_time() - begun < 5


@given(
    st.lists(st.sampled_from(["<lora:", "a", ":", ">", "1", "<", "\n", "compose=switch", " "]), max_size=30).map(
        "".join
    )
)
def test_tags_are_found_where_the_whole_prompt_would_show_them(prompt):
    tag = re.compile(r"<lora:([^:>]+(?::[^>]*)?)>")
    assert has_tag(prompt) == bool(tag.search(prompt))
    try:
        plain, tags = read_prompt(prompt)
    except ConfigError:
        return
    assert plain == tag.sub("", prompt).strip()
    assert len(tags) == len(tag.findall(prompt))
