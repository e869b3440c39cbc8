"""Checks one setting's value against the type, bounds and choices of its field."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from lib_addift.errors import ConfigError, short_repr

_FORMER_SWITCHES = {"mirror": {False: "off", True: "on"}}  # settings that were true or false in files that exist
UNWRITABLE = re.compile(r"[\x00\ud800-\udfff]")  # NUL ends a path, and half of a pair of surrogates has no encoding


def checked(field: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as the field's type. Raises ConfigError when it has another type or breaks the rules in the metadata."""
    name, rules = field.name, field.metadata
    if field.type in ("int", "float"):
        value = _number(name, value, whole=field.type == "int")
        if not rules["low"] <= value <= rules["high"]:
            raise ConfigError(
                f"{name} = {short_repr(value)} is out of bounds: it must be a finite number from {rules['low']} to "
                f"{rules['high']}."
            )
    elif field.type == "bool":
        if not isinstance(value, bool):
            raise ConfigError(f"{name} = {short_repr(value)} must be true or false.")
    elif field.type == "str":
        value = _FORMER_SWITCHES.get(name, {}).get(value, value) if isinstance(value, bool) else value
        check_text(name, value)
        if "choices" in rules and value not in rules["choices"]:
            raise ConfigError(f"{name} = {short_repr(value)} is no choice: use one of {', '.join(rules['choices'])}.")
    else:
        value = _chosen(name, value, rules["choices"])
    return value


def check_text(name: str, value: Any) -> None:
    """Raises ConfigError when `value` is no text, or one that no file can hold."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} = {short_repr(value)} must be text.")
    if UNWRITABLE.search(value):
        raise ConfigError(f"{name} = {short_repr(value)} has a character that no file can hold: type it anew.")


def _number(name: str, value: Any, *, whole: bool) -> int | float:
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} = {short_repr(value)} must be {kind}.")
    try:
        number = float(value)
    except OverflowError:
        raise ConfigError(f"{name} is out of bounds: it is beyond all numbers that a computer counts with.") from None
    if not whole:
        return number
    if not number.is_integer():  # nor are infinities and nan
        raise ConfigError(f"{name} = {short_repr(value)} must be a whole number.")
    return int(value)


def _chosen(name: str, value: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Some of the choices, in the order of the choices, so that equal settings compare equal."""
    if not isinstance(value, (str, list, tuple)):
        raise ConfigError(f"{name} = {short_repr(value)} must be a list: use some of {', '.join(choices)}.")
    chosen = [value] if isinstance(value, str) else list(value)
    for item in chosen:
        if not (isinstance(item, str) and item in choices):
            raise ConfigError(f"{name} has {short_repr(item)}: use some of {', '.join(choices)}.")
    if not chosen:
        raise ConfigError(f"{name} is empty: choose at least one of {', '.join(choices)}.")
    return tuple(item for item in choices if item in chosen)
