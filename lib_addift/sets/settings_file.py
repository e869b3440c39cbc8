"""addift.toml: the settings of one folder of pairs."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.config.text import read_toml
from lib_addift.errors import ConfigError, short_repr
from lib_addift.lora.file import check_name
from lib_addift.sets.names import name_key, shown

FILE_NAME = "addift.toml"
_LARGEST_WEIGHT = 1000.0
_OWN_KEYS = ("name", "overwrite", "suffix", "weights")
_CONFIG_KEYS = ("preset", *(setting.name for setting in dataclasses.fields(TrainConfig)))


@dataclass(frozen=True)
class SetSettings:
    """The contents of an addift.toml; the defaults without one."""

    name: str = ""  # of the LoRA; '' = as the folder is called
    suffix: str = ""  # of the targets' names; '' = detected
    overwrite: bool | None = None
    weights: Mapping[str, float] = field(default_factory=dict)  # by the key of a pair's name
    config: Mapping[str, Any] = field(default_factory=dict)  # as `from_mapping` takes it

    @property
    def mask_file(self) -> Path | None:
        value = self.config.get("mask_file")
        return Path(value) if value and isinstance(value, str) else None


def settings_file(folder: Path) -> Path | None:
    """The folder's addift.toml, however it is capitalised. Raises OSError."""
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == FILE_NAME), None)


def read_settings(folder: Path) -> SetSettings:
    """Read the folder's addift.toml; its mask_file is relative to the folder. Raises ConfigError and OSError.

    Values of TrainConfig's settings are not checked here, since they may depend on settings from elsewhere.
    """
    path = settings_file(folder)
    values = read_toml(path) if path else {}
    for key in values:
        if key not in (*_OWN_KEYS, *_CONFIG_KEYS):
            close = difflib.get_close_matches(key, [*_OWN_KEYS, *_CONFIG_KEYS], 1)
            remedy = f"did you mean '{close[0]}'?" if close else "'python -m lib_addift settings' lists what there is."
            raise ConfigError(f"{FILE_NAME} has '{shown(key)}', which is no setting: {remedy}")
    for key, kind, wanted in (("name", str, "text"), ("suffix", str, "text"), ("overwrite", bool, "true or false")):
        if not isinstance(values.get(key, kind()), kind) or values.get(key) == "":
            raise ConfigError(f"{FILE_NAME} has {key} = {short_repr(values[key])}: write {wanted}, or leave it out.")
    config = {key: value for key, value in values.items() if key in _CONFIG_KEYS}
    if config.get("mask_file") and isinstance(config["mask_file"], str):
        config["mask_file"] = str(folder / config["mask_file"])
    name = check_name(values["name"]) if "name" in values else ""
    weights = _checked_weights(values.get("weights", {}))
    return SetSettings(name, values.get("suffix", ""), values.get("overwrite"), weights, config)


def _checked_weights(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        raise ConfigError(
            f"{FILE_NAME} has weights = {short_repr(values)}: write a table, [weights], of lines such as face = 2."
        )
    for name, value in values.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number and 0 < value <= _LARGEST_WEIGHT):
            raise ConfigError(
                f"{FILE_NAME} has {shown(name)} = {short_repr(value)} among its weights: write a number above 0 and up "
                f"to {_LARGEST_WEIGHT:g}, and a name with a dot in quotes."
            )
    return {name_key(name): float(value) for name, value in values.items()}
