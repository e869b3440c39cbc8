"""Requests for every route of an API, made from its own OpenAPI schema and then spoilt, from a seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any

# What stands where another value should: every JSON type, bounds of numbers, texts that programs stumble over.
JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "0", "true", "null", "a\0b", "\ud800", "\u202e", "../x", "/", "\\\\s\\x", "NUL", "x" * 5000, "{a|b",
    "<lora:a:1>" * 20, "((((((", "%s%n", "data:image/png;base64,", "data:", "====", "iVBORw0KGgo=", "R0lGODlhAQABAA==",
    [], [[]], [None], ["a", 1], {}, {"": None}, {"a": {"b": []}}, [{}] * 50, {"original": "x"},
)  # fmt: skip
_BODIES = (b"", b"{", b"null", b"[]", b'"x"', b"1", b"\xff", b"[" * 5000, b'{"a":' * 5000, b"NaN", b'{"a":1,"a":2}')
_TYPES = ("application/json", "application/json;charset=utf-16", "text/plain", "multipart/form-data", "", "a" * 500)


class Fuzzer:
    """An endless stream of requests: (method, url, arguments of a client's `request`)."""

    def __init__(self, schema: Mapping[str, Any], settings: Mapping[str, Any], known: Mapping[str, Any], seed: int):
        """`settings` is the schema of the settings; `known` has values that are right for fields of such names.

        Beside these, `known` has quick `settings` and the right values of `parameters` by name.
        """
        self._schema, self._settings, self._known = schema, settings, known
        self._random = random.Random(seed)

    def requests(self, prefix: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Each route in turn, for ever."""
        routes = [
            (method, path, operation)
            for path, operations in sorted(self._schema["paths"].items())
            for method, operation in sorted(operations.items())
            if path.startswith(prefix)
        ]
        while True:
            for method, path, operation in routes:
                yield method, self._url(path, operation), self._arguments(operation)

    def _url(self, path: str, operation: Mapping[str, Any]) -> str:
        query = []
        for parameter in operation.get("parameters", ()):
            name = parameter["name"]
            value = self._parameter(name)
            if parameter["in"] == "path":
                path = path.replace("{" + name + "}", value)
            elif self._random.random() < 0.3:
                query.append(f"{name}={value}")
        return f"{path}?{'&'.join(query)}" if query else path

    def _parameter(self, name: str) -> str:
        odd = ("nobody", "0", "-1", "9" * 30, "true", "false", "%00", "%2e%2e", "a b")
        values = (*self._known["parameters"].get(name, ()), *odd)
        return str(self._random.choice(values))

    def _arguments(self, operation: Mapping[str, Any]) -> dict[str, Any]:
        body = operation.get("requestBody")
        if body is None:
            return {"content": self._random.choice(_BODIES)} if self._random.random() < 0.2 else {}
        if self._random.random() < 0.1:
            kind = self._random.choice(_TYPES)
            return {"content": self._random.choice(_BODIES), "headers": {"Content-Type": kind}}
        value = self._right(body["content"]["application/json"]["schema"])
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            value = self._spoilt(value)
        return {"content": json.dumps(value), "headers": {"Content-Type": "application/json"}}

    def _right(self, schema: Mapping[str, Any], name: str = "") -> Any:
        """A value that the schema allows, as far as it says."""
        if name == "settings":
            return self._some_settings()
        if name in self._known:
            return copy.deepcopy(self._known[name])
        if "$ref" in schema:
            return self._right(self._schema["components"]["schemas"][schema["$ref"].rpartition("/")[2]], name)
        if "default" in schema:
            return copy.deepcopy(schema["default"])
        if "properties" in schema:
            required = schema.get("required", ())
            return {
                key: self._right(each, key)
                for key, each in schema["properties"].items()
                if key in required or key in self._known or self._random.random() < 0.3
            }
        kinds = [each for each in schema.get("anyOf", (schema,)) if each.get("type") != "null"]
        examples = {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
        return examples[kinds[0]["type"]]

    def _some_settings(self) -> dict[str, Any]:
        """Quick settings, and some others within or beyond their bounds."""
        quick = self._known["settings"]
        chosen = dict(quick)
        for name in self._random.sample(sorted(self._settings), self._random.choice((0, 1, 2))):
            rules = self._settings[name]
            values = [
                *rules.get("enum", ()),
                rules["default"],
                *(rules[k] for k in ("minimum", "maximum") if k in rules),
            ]
            chosen[name] = self._random.choice([*values, self._random.choice(JUNK)])
        return {**chosen, **{name: value for name, value in quick.items() if "step" in name}}

    def _spoilt(self, value: Any) -> Any:
        """The value with one change somewhere: replaced, left out, doubled, or with something beside it."""
        junk = copy.deepcopy(self._random.choice(JUNK))
        if not isinstance(value, (dict, list)) or not value or self._random.random() < 0.05:
            return junk
        key = self._random.choice(sorted(value) if isinstance(value, dict) else list(range(len(value))))
        changed = value.copy()
        way = self._random.random()
        if way < 0.4 and isinstance(value[key], (dict, list)):
            changed[key] = self._spoilt(value[key])
        elif way < 0.8:
            changed[key] = junk
        elif way < 0.9:
            del changed[key]
        elif isinstance(changed, dict):
            changed[str(self._random.choice(("", "preset", "seed", "a\0", "__proto__", "\ud800", "self")))] = junk
        else:
            changed.append(junk)
        return changed
