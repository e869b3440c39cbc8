"""Checks one setting's value against the type, bounds and choices of its field."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lib_addift.errors import ConfigError


def checked(field: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as the field's type. Raises ConfigError when it has another type or breaks the rules in the metadata."""
    name, rules = field.name, field.metadata
    if field.type in ("int", "float"):
        value = _number(name, value, whole=field.type == "int")
        if not rules["low"] <= value <= rules["high"]:
            raise ConfigError(
                f"{name} = {value} is out of bounds: it must be a finite number from {rules['low']} to {rules['high']}."
            )
    elif field.type == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"{name} = {value!r} must be true or false.")
    elif field.type == "str":
        if not isinstance(value, str):
            raise ConfigError(f"{name} = {value!r} must be text.")
        if "choices" in rules and value not in rules["choices"]:
            raise ConfigError(f"{name} = {value!r} is no choice: use one of {', '.join(rules['choices'])}.")
    else:
        value = _chosen(name, value, rules["choices"])
    return value


def _number(name: str, value: Any, *, whole: bool) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} = {value!r} must be a {'whole ' if whole else ''}number.")
    if not whole:
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(
                f"{name} is out of bounds: it is beyond all numbers that a computer counts with."
            ) from None
    if not math.isfinite(value) or value != int(value):
        raise ConfigError(f"{name} = {value!r} must be a whole number.")
    return int(value)


def _chosen(name: str, value: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Some of the choices, in the order of the choices, so that equal settings compare equal."""
    if not isinstance(value, (str, list, tuple)):
        raise ConfigError(f"{name} = {value!r} must be a list: use some of {', '.join(choices)}.")
    chosen = [value] if isinstance(value, str) else list(value)
    for item in chosen:
        if item not in choices:
            raise ConfigError(f"{name} has {item!r}: use some of {', '.join(choices)}.")
    if not chosen:
        raise ConfigError(f"{name} is empty: choose at least one of {', '.join(choices)}.")
    return tuple(item for item in choices if item in chosen)
