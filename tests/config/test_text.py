"""Settings as text: on the command line, in TOML files and in the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_addift.config.text import parse_value, read_toml, settings_table
from lib_addift.errors import ConfigError
from lib_addift.training.methods import from_mapping, method_settings
from tests.support.wrong_values import WRONG, not_handled, sentence_problem


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("rank", "8", 8),
        ("learning_rate", "2e-4", 2e-4),
        ("gradient_checkpointing", "on", True),
        ("layers", "self_attention, feed_forward", ("self_attention", "feed_forward")),
        ("prompt", "a = b", "a = b"),
    ],
)
def test_values_from_text(name: str, text: str, value: object) -> None:
    assert parse_value(name, text) == value


@pytest.mark.parametrize(("name", "text"), [("rank", "8.5"), ("calibrate", "perhaps"), ("nothing", "1")])
def test_bad_text_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        parse_value(name, text)


def test_the_documentation_lists_every_setting() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert settings_table(method_settings()) in page, (
        "run: python -m lib_addift settings, and paste it into docs/settings.md"
    )


def test_toml_with_a_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbfrank = 8\r\nprompt = 'a'\r\n")
    assert read_toml(tmp_path / "x.toml") == {"rank": 8, "prompt": "a"}


def toml(value: object) -> str:
    """As TOML writes it; '' for what TOML does not have."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > 10**4000:
        return "9" * 6000  # more digits than Python reads
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return "" if "\ud800" in value else json.dumps(value)
    return json.dumps(value) if isinstance(value, list) else ""


def test_every_setting_of_every_wrong_type_in_a_file(tmp_path: Path) -> None:
    texts = {kind: toml(value) for kind, value in WRONG.items() if kind != "deeply nested" and toml(value)}
    texts |= {"a table": "{a = {b = [1, 2]}}", "a date": "2026-11-28T10:00:00", "a time": "10:00:00", "no value": "1:"}
    texts |= {"deeply nested": "[" * 3000, "not closed": '"""', "NUL": "\0"}

    def value_of(text: str) -> object:
        file = tmp_path / "addift.toml"
        file.write_text(f"x = {text}\n", "utf-8")
        return read_toml(file)["x"]

    for kind, text in texts.items():
        try:
            value = value_of(text)
        except ConfigError as error:
            assert not sentence_problem(str(error)), kind  # noqa: PT017
        else:
            assert list(not_handled(lambda field, value: from_mapping({field: value}), wrong={kind: value})) == []
