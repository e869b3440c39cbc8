"""Checks settings against each other; each alone is checked in validation.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_addift.config.algorithms import ALGORITHMS
from lib_addift.config.prompts import check_alternatives
from lib_addift.config.timesteps import BY_SIZE, HIGHEST
from lib_addift.errors import ConfigError


def check_together(settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for settings, each checked alone, that exclude each other."""
    lowest = HIGHEST if settings["min_timestep"] == BY_SIZE else settings["min_timestep"]
    if lowest + settings["timestep_bands"] > settings["max_timestep"]:
        raise ConfigError(
            f"min_timestep = {settings['min_timestep']} and max_timestep = {settings['max_timestep']} leave no room "
            f"for {settings['timestep_bands']} bands: raise max_timestep or lower min_timestep."
        )
    _check_algorithm(settings)
    try:
        check_alternatives(settings["preview_prompt"])
    except ConfigError as error:
        raise ConfigError(f"preview_prompt: {error}") from None
    if settings["mask"] == "file" and not settings["mask_file"]:
        raise ConfigError("mask = file needs a mask_file: name a grey picture, or choose mask = auto.")


def _check_algorithm(settings: Mapping[str, Any]) -> None:
    if settings["dora"] and settings["algorithm"] != "lora":
        raise ConfigError(f"dora = true needs algorithm = lora, and it is {settings['algorithm']}: change one of them.")
    if settings["dora"] and settings["result_rank"]:
        raise ConfigError(
            f"result_rank = {settings['result_rank']} cuts ranks away, which a DoRA does not bear: "
            "set it to 0, or dora to false."
        )
    if ALGORITHMS[settings["algorithm"]].one_rank and not settings["rank"] == settings["alpha"] == 1:
        raise ConfigError(
            f"algorithm = {settings['algorithm']} has one rank, and rank = {settings['rank']} and "
            f"alpha = {settings['alpha']:g} are given: set both to 1, or choose the "
            "preset action, style or detail, which learn in layers."
        )
    if settings["lokr_factor"] == 0:
        raise ConfigError("lokr_factor = 0 splits nothing: give -1 (automatic) or a number from 1 on.")
