"""Names of files: which belong together, and which a LoRA can have."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_addift.errors import LoraFileError
from lib_addift.lora.file import check_name
from lib_addift.sets.names import find_rule, match, name_key, safe_name


@settings(max_examples=300, deadline=None)
@given(st.sets(st.text("ab_1", min_size=1, max_size=6), min_size=2, max_size=12), st.text("ab_1", min_size=1))
def test_nothing_is_paired_twice_whatever_the_names(names: set[str], ending: str) -> None:
    paths = {name: Path(f"{name}.png") for name in names}
    matches = match(paths, paths, ("", ending))
    used = [name for pair in matches for name in pair]
    assert len(used) == len(set(used))
    assert all(target == original + ending for original, target in matches)
    left = names - set(used)
    assert not any(name + ending in left for name in left)


def test_a_name_in_a_thousand_others_takes_no_time_for_each() -> None:
    names = ["a", *(f"a{chr(0x4E00 + index)}" for index in range(2000))]
    paths = {name + end: Path(name + end) for name in names for end in ("", "_closed")}
    began = time.process_time()
    assert find_rule(paths) == ("", "_closed")
    assert time.process_time() - began < 2  # s; with a try for each name it takes more than five


HARD = ["con", "Con.x", "lpt1", "COM¹ ", "a:b", "a\nb", ". .", "...", "", "x.safetensors", "x.SAFETENSORS. ", "\ud83d"]
HARD += [".safetensors", "笑" * 90, "n" * 300, "con" * 60, "aux." + "n" * 96, "a,b=c", "\u2028", "smile."]


@pytest.mark.parametrize("text", HARD)
def test_hard_names_are_made_safe(text: str) -> None:
    assert check_name(safe_name(text)) != text


@settings(max_examples=500)
@given(st.text(max_size=120) | st.text("con. \u3000:<aux1safetensors", max_size=110))
def test_any_name_is_made_safe_and_a_safe_one_is_kept(text: str) -> None:
    name = safe_name(text)
    assert check_name(name) == safe_name(name) == name
    try:
        assert name == check_name(text)
    except LoraFileError:
        assert name != text


@given(st.text(max_size=20))
def test_a_names_key_is_the_same_for_all_its_forms(text: str) -> None:
    assert name_key(unicodedata.normalize("NFD", text)) == name_key(unicodedata.normalize("NFC", text))
