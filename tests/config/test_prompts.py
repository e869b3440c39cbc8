"""Alternatives in prompts, and what two prompts share."""

from __future__ import annotations

import pytest

from lib_addift.config.prompts import choose_alternatives, shared_caption, without_alternatives
from lib_addift.errors import ConfigError


def test_a_seed_chooses_the_same_alternative_in_both_prompts_and_seeds_differ() -> None:
    chosen = set()
    for seed in range(40):
        first = choose_alternatives("{black|red|blond} hair, open eyes", seed)
        second = choose_alternatives("closed eyes, {black|red|blond} hair", seed)
        assert first.split(" hair")[0] == second.split(", ")[1].removesuffix(" hair")
        chosen.add(first)
    assert chosen == {f"{colour} hair, open eyes" for colour in ("black", "red", "blond")}


def test_the_same_braces_twice_choose_each_for_itself() -> None:
    pairs = {choose_alternatives("{a|b}{a|b}", seed) for seed in range(40)}
    assert pairs == {"aa", "ab", "ba", "bb"}


@pytest.mark.parametrize("caption", ["a face", "{a|b", "}", r"a \{ b \| c", "\\"])
def test_a_caption_can_be_said_as_it_stands(caption: str) -> None:
    assert choose_alternatives(without_alternatives(caption), 1) == caption


@pytest.mark.parametrize(
    ("prompt", "possible"),
    [
        ("a face", {"a face"}),
        ("{a|{b|c} d}", {"a", "b d", "c d"}),
        ("{smiling, |}a face", {"smiling, a face", "a face"}),
        (r"\{a\|b\}", {"{a|b}"}),
        ("a|b", {"a|b"}),
        ("{a}", {"a"}),
        ("a\\", {"a\\"}),
        ("", {""}),
    ],
)
def test_what_braces_mean(prompt: str, possible: set[str]) -> None:
    assert {choose_alternatives(prompt, seed) for seed in range(60)} == possible


@pytest.mark.parametrize(
    ("prompt", "what"), [("{a|b", "a { without"), ("a}", "a } without"), ("{a|{b}", "a { without")]
)
def test_unbalanced_braces_are_refused(prompt: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        choose_alternatives(prompt, 1)


@pytest.mark.parametrize(
    ("original", "target", "caption"),
    [
        ("a face, open eyes, red hair", "a face, closed eyes, red hair", "a face, red hair"),
        ("red hair , a face", "a face,,red hair", "red hair, a face"),
        ("a, a, b", "a, b", "a, b"),
        ("open eyes", "closed eyes", ""),
    ],
)
def test_the_caption_is_what_both_say(original: str, target: str, caption: str) -> None:
    assert shared_caption(original, target) == caption
