"""What the pair doctor says of the form's pairs; each is examined once for its pictures and settings. No gradio."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import Finding, examine, mask_overlay
from lib_addift.data.pairs import load_source
from lib_addift.errors import AddiftError, ConfigError
from lib_addift.ui.form import config_of
from lib_addift.ui.pairs import FormPair, PairList

_SETTINGS = ("align", "mask", "mask_file", "resolution")  # on which the examination depends
_BUDGET = 0.3  # seconds for the pairs of a list in one answer


@dataclass(frozen=True)
class Diagnosis:
    """What there is to say of a pair."""

    findings: tuple[Finding, ...] = ()
    overlay: Image.Image | None = None  # the original, tinted where the LoRA will learn
    problem: str = ""  # why it cannot be used, or ''


class Doctor:
    """Examines pairs and remembers what it found."""

    def __init__(self, picture_side: int | None) -> None:
        self._side = picture_side
        self._known: dict[object, Diagnosis] = {}

    @staticmethod
    def key(pair: FormPair, values: Mapping[str, Any]) -> object:
        """A value that changes when the diagnosis may."""
        return (*pair.digests.values(), pair.is_drawn, *(values[name] for name in _SETTINGS))

    def known(self, pair: FormPair, values: Mapping[str, Any]) -> Diagnosis | None:
        """The diagnosis of a pair that was examined already."""
        return self._known.get(self.key(pair, values))

    def diagnose(self, pair: FormPair, values: Mapping[str, Any]) -> Diagnosis:
        """The diagnosis of a pair with both pictures."""
        key = self.key(pair, values)
        if key not in self._known:
            self._known[key] = self._examined(pair, values)
        return self._known[key]

    def examine_some(self, pairs: PairList, values: Mapping[str, Any]) -> int:
        """Examine pairs of the list for a moment, and forget those that are gone; returns how many are left to do."""
        whole = [pair for pair in list(pairs.items) if not pair.missing]
        keys = {self.key(pair, values) for pair in whole}
        self._known = {key: found for key, found in self._known.items() if key in keys}
        end = time.monotonic() + _BUDGET
        left = [pair for pair in whole if self.known(pair, values) is None]
        while left and time.monotonic() < end:
            self.diagnose(left.pop(0), values)
        return len(left)

    def _examined(self, pair: FormPair, values: Mapping[str, Any]) -> Diagnosis:
        try:
            try:
                config = config_of(values)
            except ConfigError:  # shown beside the settings; the pictures can be examined all the same
                config = TrainConfig()
            loaded = load_source(pair.source("", masks_itself=config.mask == "auto"), config)
            return Diagnosis(examine(loaded, self._side).findings, mask_overlay(loaded))
        except AddiftError as error:
            return Diagnosis(problem=str(error))
