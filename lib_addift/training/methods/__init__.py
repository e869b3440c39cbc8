"""The ways to learn a difference, one module each; the loop is the same for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from lib_addift.config.recipes import recipes
from lib_addift.config.settings import TrainConfig
from lib_addift.config.validation import check_text
from lib_addift.errors import ConfigError, short_repr
from lib_addift.training.methods import addift, copier, differential, lora, residual, slider
from lib_addift.training.methods.phase import Goal, Method, Phase, Supports

METHODS: dict[str, Method] = {
    "addift": cast(Method, addift),
    "copier": cast(Method, copier),
    "differential": cast(Method, differential),
    "residual": cast(Method, residual),
    "slider": cast(Method, slider),
    "lora": cast(Method, lora),
}

__all__ = [
    "METHODS", "Goal", "Method", "Phase", "Supports",
    "check_method", "from_mapping", "is_simple", "make_config", "method_for_single_pictures", "method_of",
    "method_settings", "total_steps",
]  # fmt: skip


def method_of(config: TrainConfig) -> Method:
    """The method that `config.method` names."""
    return METHODS[config.method]


def make_config(preset: str = "", /, **settings: Any) -> TrainConfig:
    """The preset's settings, those of the method, and the given ones on top of both. Raises ConfigError.

    Without a preset the one that suits the settings is used (`preset_for`).
    """
    named = settings.get("method")
    method = METHODS.get(named) if isinstance(named, str) else None
    config = TrainConfig.create(preset, **{**(method.defaults if method else {}), **settings})
    check_method(config)
    return config


def from_mapping(values: Mapping[str, Any], preset: str = "") -> TrainConfig:
    """A config from a mapping such as a TOML table or an API body; its key 'preset', if there, names the preset."""
    settings = dict(values)
    preset = settings.pop("preset", preset)
    check_text("preset", preset)
    return make_config(preset, **settings)


def method_settings() -> dict[str, dict[str, Any]]:
    """For each method that has any: the settings that it changes."""
    return {name: dict(method.defaults) for name, method in METHODS.items() if method.defaults}


def check_method(config: TrainConfig) -> None:
    """Raises ConfigError for settings that the method does not support."""
    if config.search:
        _check_search(config)
    supports = method_of(config).supports
    if config.first_lora and not supports.first_lora:
        able = " or ".join(name for name, method in METHODS.items() if method.supports.first_lora)
        raise ConfigError(
            f"method = {config.method} has no use for first_lora = {short_repr(config.first_lora)}: choose {able}."
        )
    if not supports.all_algorithms and (config.dora or config.algorithm != "lora"):
        kind = "dora = true" if config.dora else f"algorithm = {config.algorithm}"
        raise ConfigError(
            f"method = {config.method} adds LoRAs up, which {kind} cannot: use algorithm = lora and dora = false."
        )


def _check_search(config: TrainConfig) -> None:
    """Raises ConfigError for settings with which recipes cannot be compared."""
    if config.method != "addift":
        raise ConfigError(
            f"search = true compares recipes of addift, and method = {config.method}: change one of them."
        )
    if config.train_text_encoder:
        raise ConfigError("search = true compares LoRAs of the UNet alone: set train_text_encoder to false.")
    if not config.new_pictures:
        raise ConfigError("search = true compares recipes on new pictures: set new_pictures to 8, say.")
    if config.save_every:
        raise ConfigError(
            f"search = true saves only the best recipe at its end, and save_every = {config.save_every}: set it to 0."
        )
    recipes(config)  # each of them must be valid too


def method_for_single_pictures() -> str:
    """The name of the first method that learns from pictures which are no pairs."""
    return next(name for name, method in METHODS.items() if not method.needs_pairs)


def total_steps(config: TrainConfig, pairs: int) -> int:
    """The optimizer steps of all phases, where so many pairs are learnt from; in a search, of its longest recipe."""
    if config.search:
        return max(total_steps(recipe, pairs) for recipe in recipes(config).values())
    return sum(phase.steps for phase in method_of(config).phases(config, pairs))


def is_simple(config: TrainConfig) -> bool:
    """Whether training trains one plain LoRA of the UNet, in one phase and on top of no other."""
    first, *others = method_of(config).phases(config, 1)
    return (
        config.is_stackable
        and not config.search
        and not config.train_text_encoder
        and not others
        and not first.frozen_loras
    )
