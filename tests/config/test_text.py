"""Settings as text: on the command line, in TOML files and in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.config.text import parse_value, read_toml, settings_table
from lib_addift.errors import ConfigError
from lib_addift.training.methods import method_settings


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
