"""Settings as text: from TOML files and the command line, and listed for the documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_addift.config.presets import PRESETS
from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError, short_repr


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file, with or without a byte order mark. Raises ConfigError."""
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib  # type: ignore[no-redef]
        except ImportError:
            raise ConfigError(
                f"'{path}' cannot be read by Python 3.10 alone: install tomli into it, or use Python 3.11 or newer."
            ) from None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read ({error.strerror}): check the file.") from error
    except (ValueError, RecursionError) as error:  # ValueError also for numbers of thousands of digits
        raise ConfigError(f"'{path}' is not TOML ({error}): write lines such as rank = 8, and / in paths.") from error


def parse_value(name: str, text: str) -> Any:
    """A setting's value from text ('rank', '8' -> 8), as `--set` and forms give it. Raises ConfigError."""
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    if name not in fields:
        raise ConfigError(f"{short_repr(name)} is no setting: use one of {', '.join(sorted(fields))}.")
    kind = fields[name].type
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ConfigError(f"{name} = {short_repr(text)} is neither true nor false.")
        return text.lower() in ("true", "1", "yes", "on")
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        raise ConfigError(
            f"{name} = {short_repr(text)} is not a {'whole ' if kind == 'int' else ''}number: give one."
        ) from None


def settings_table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Every setting with default, bounds and help, as Markdown; `methods` has the settings of each by its name."""
    lines = ["| setting | default | values | what it does |", "|---|---|---|---|"]
    for field in dataclasses.fields(TrainConfig):
        rules, default = field.metadata, field.default
        if "choices" in rules:
            values = ", ".join(rules["choices"])
        elif "low" in rules:
            values = f"{rules['low']:g} to {rules['high']:g}"
        else:
            values = "true, false" if field.type == "bool" else "text"
        shown = (
            ", ".join(default)
            if isinstance(default, tuple)
            else str(default).lower()
            if field.type == "bool"
            else default
        )
        help_text = rules["help"].replace("|", "\\|")  # which would end the cell
        lines.append(f"| `{field.name}` | {shown} | {values} | {help_text} |")
    for kind, tables in (("preset", PRESETS), ("method", methods)):
        lines += ["", f"| {kind} | sets |", "|---|---|"]
        for name, settings in tables.items():
            lines.append(f"| `{name}` | {', '.join(f'{key} = {value}' for key, value in settings.items())} |")
    return "\n".join(lines) + "\n"
