"""Options that several commands share: settings, the model, and the host that they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_addift.config.presets import DEFAULT_PRESET, PRESETS
from lib_addift.config.settings import TrainConfig
from lib_addift.config.text import parse_value, read_toml
from lib_addift.errors import ConfigError
from lib_addift.training.methods import from_mapping

if TYPE_CHECKING:
    from lib_addift.hosts.standalone import StandaloneHost


def add_settings(parser: argparse.ArgumentParser) -> None:
    """--preset, --config, --set, --search, and what `add_model` adds."""
    parser.add_argument("--preset", choices=tuple(PRESETS), help=f"kind of difference (default: {DEFAULT_PRESET})")
    parser.add_argument("--config", type=Path, help="a TOML file of settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; may be repeated")
    parser.add_argument(
        "--search", dest="set", action="append_const", const="search=true", default=[],
        help="try several recipes and save the best, as --set search=true",
    )  # fmt: skip
    add_model(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """--device and --clip-skip."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument(
        "--clip-skip",
        type=int,
        default=1,
        metavar="N",
        help="read prompts by the N-th last layer (default: 1, the last)",
    )


def settings(options: argparse.Namespace, preset: str = "") -> TrainConfig:
    """The settings that the options of `add_settings` give. Raises ConfigError."""
    return from_mapping(setting_values(options), preset)


def setting_values(options: argparse.Namespace) -> dict[str, Any]:
    """Preset, then the TOML file, then --set: what was asked for, as `from_mapping` takes it. Raises ConfigError."""
    values = read_toml(options.config) if options.config else {}
    if options.preset:
        values["preset"] = options.preset
    for assignment in options.set:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment} has no value: write it as --set KEY=VALUE.")
        values[name.strip()] = parse_value(name.strip(), text.strip())
    return values


def open_host(
    options: argparse.Namespace, checkpoint: Path, lora_dir: Path, *, precision: str = "auto"
) -> StandaloneHost:
    """The host of a checkpoint on the device that the options of `add_model` name. Raises HostError."""
    from lib_addift.hosts.standalone import StandaloneHost  # diffusers and transformers: for these commands only

    return StandaloneHost(
        checkpoint, lora_dir=lora_dir, device=options.device, precision=precision, clip_skip=options.clip_skip
    )
