"""The sliders' values as tags and as text."""

from __future__ import annotations

import pytest

from lib_addift.errors import ConfigError
from lib_addift.hosts.prompt_tag.sliders import COUNT, INFOTEXT_KEY, NONE, READERS, ROW, infotext_of, tags_of, values_of

UNUSED = list(ROW.values())


def items(*values, axes=None):
    return [tag.items for tag in tags_of(values, axes)]


def test_rows_in_use_are_tags():
    values = ["smile", 0.8, 1000, 0, NONE, 1.0, 1000, 0, "wink", -1.25, 900, 500]
    assert items(*values) == [["smile", "0.8"], ["wink", "-1.25", "from=900", "to=500"]]


@pytest.mark.parametrize("row", [UNUSED, ["smile", 0.0, 1000, 0], ["", 1.0, 1000, 0], [None, 1.0, 1000, 0]])
def test_without_a_lora_or_a_weight_there_is_no_tag(row):
    assert items(*row) == []


def test_what_a_request_leaves_out_has_its_default():
    assert items("smile") == []
    assert items("smile", 1) == [["smile", "1"]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (["smile", "strong", 1000, 0], "the weight 'strong' is no number"),
        (["smile", float("nan"), 1000, 0], "the weight 'nan' is no number"),
        (["smile", 1.0, 1001, 0], "from=1001 is no number from 0 to 1000"),
        (["smile", 1.0, 1000, -1], "to=-1 is no number from 0 to 1000"),
    ],
)
def test_a_wrong_value_is_named(row, words):
    with pytest.raises(ConfigError, match=words):
        tags_of(row)


def test_an_axis_varies_the_first_row_in_use():
    values = [*UNUSED, "smile", 0.0, 1000, 0, "wink", 1.0, 1000, 0]
    assert items(*values, axes={"weight": -1.0}) == [["smile", "-1"], ["wink", "1"]]
    assert items(*values, axes={"weight": 1.0, "to": 500.0})[0] == ["smile", "1", "from=1000", "to=500"]


def test_an_axis_without_a_lora_says_what_is_missing():
    with pytest.raises(ConfigError, match="no LoRA is chosen in 'Difference sliders'"):
        tags_of(UNUSED * COUNT, {"weight": 1.0})


def test_the_text_brings_the_values_back():
    values = ["smile", 0.8, 1000, 0, "two, words", -1.25, 900, 500]
    text = infotext_of(tags_of(values))
    assert text == "<lora:smile:0.8> <lora:two, words:-1.25:from=900:to=500>"
    assert values_of(text) == [*values, *UNUSED * (COUNT - 2)]
    assert [read({INFOTEXT_KEY: text}) for read in READERS] == values_of(text)


@pytest.mark.parametrize("generation", [{}, {INFOTEXT_KEY: "no tags"}, {INFOTEXT_KEY: "<lora:smile:strong>"}])
def test_a_picture_made_without_sliders_sets_them_back(generation):
    assert [read(generation) for read in READERS] == UNUSED * COUNT


def test_more_loras_than_rows_are_cut():
    assert len(values_of("<lora:smile:1>" * (COUNT + 1))) == COUNT * len(ROW)
