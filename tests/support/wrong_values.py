"""Values of every type that a setting may be given by mistake, and what a refusal has to look like."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError

FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


WRONG: dict[str, Any] = {
    "true": True,
    "one": 1,
    "minus one": -1,
    "a half": 0.5,
    "nan": math.nan,
    "infinity": math.inf,
    "beyond floats": 10**400,
    "many digits": -(10**6000),
    "no text": "",
    "a word": "x",
    "a number's text": "4",
    "a NUL": "a\0b",
    "half a pair": "a\ud800b",
    "escapes": "\x1b[31mred\r\n",
    "a long text": "x" * 20_000,
    "a list": [],
    "a nested list": [[]],
    "a list of text": ["x"],
    "a list of lists": [["convolutions"]],
    "a mixed list": ["convolutions", 5, None],
    "deeply nested": nested(3000),
    "a table": {},
    "a table of lists": {"a": [1, {"b": 2}]},
    "nothing": None,
}


def json_text(value: Any) -> str:
    """As a client may send it: also numbers that JSON does not have."""
    if isinstance(value, int) and abs(value) > 10**4000:
        return "-" + "9" * 6000
    return "[" * 3000 + "]" * 3000 if value is WRONG["deeply nested"] else json.dumps(value)


def sentence_problem(message: str) -> str:
    """Why an error's message is not one short printable sentence; '' when it is."""
    if len(message) > 1500:
        return "it is long"
    if not message.isprintable():
        return "it cannot be printed"
    return "" if message.endswith(".") else "it has no end"


def not_handled(
    read: Callable[[str, Any], Any], fields: list[str] = FIELDS, wrong: Mapping[str, Any] = WRONG
) -> Iterator[str]:
    """Every field with every wrong value that `read` neither accepts nor refuses with a ConfigError in one sentence."""
    for field in fields:
        for kind, value in wrong.items():
            try:
                read(field, value)
            except ConfigError as error:
                problem = sentence_problem(str(error))
            except Exception as error:
                problem = repr(error)[:200]
            else:
                problem = ""
            if problem:
                yield f"{field} = {kind}: {problem}"
