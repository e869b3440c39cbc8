"""Image sets: folders of pairs, each of which becomes one LoRA."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import Finding, examine
from lib_addift.data.pairs import PairSource, load_source, size_of
from lib_addift.data.pictures import Size
from lib_addift.errors import AddiftError, ConfigError, PictureError
from lib_addift.sets.kohya_folders import find_pictures
from lib_addift.sets.names import name_key, safe_name, shown
from lib_addift.sets.pairing import find_pairs, holds_pictures, inner_folders
from lib_addift.sets.settings_file import SetSettings, read_settings, settings_file
from lib_addift.training.dataset import with_usual_steps
from lib_addift.training.events import Request
from lib_addift.training.methods import from_mapping, method_for_single_pictures
from lib_addift.training.request import check_sources

_READERS = 8  # threads that read headers: most of the time is the disk's


@dataclass(frozen=True)
class PairCheck:
    """The check of a pair before training."""

    name: str
    size: Size | None  # px, as it will be trained on; None where it cannot be used
    findings: tuple[Finding, ...]  # none where only the headers were read
    problem: str = ""  # why it cannot be used, or ''


@dataclass(frozen=True)
class PairSet:
    """A folder of pairs and its settings for training them."""

    name: str  # of the LoRA
    folder: Path
    pairs: tuple[PairSource, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # the set's own, as `from_mapping` takes them
    notes: tuple[str, ...] = ()  # what was found in the folder and what was not used
    problem: str = ""  # one sentence when the set cannot be trained, or ''
    overwrite: bool | None = None  # as the set wants it; None = as all

    def config(self, base: Mapping[str, Any] | None = None) -> TrainConfig:
        """The settings of all, as `from_mapping` takes them, with the set's own on top. Raises ConfigError.

        Where none of them says how many steps, several pairs get more than one.
        """
        settings = {**(base or {}), **self.settings}
        return with_usual_steps(from_mapping(settings), self.pairs, settings)

    def request(self, base: Mapping[str, Any] | None = None, overwrite: bool = False) -> Request:
        """What to train. Raises ConfigError when the set has a problem or the settings are bad."""
        if self.problem:
            raise ConfigError(f"the set '{shown(self.folder.name)}' cannot be trained: {self.problem}")
        return Request(
            self.pairs, self.name, self.config(base), overwrite if self.overwrite is None else self.overwrite
        )

    def examine(
        self, config: TrainConfig, look_into: int | None = None, picture_side: int | None = None
    ) -> list[PairCheck]:
        """Check every pair: the first `look_into` of them (None: all) as the doctor does, of the others only headers.

        What is wrong with the pixels of those shows when they are trained, where every pair is looked into.
        """
        rest = [] if look_into is None else self.pairs[look_into:]
        checks = [_check(source, config, picture_side) for source in self.pairs[:look_into]]
        with warnings.catch_warnings(), ThreadPoolExecutor(_READERS) as readers:
            warnings.simplefilter("ignore")  # Pillow's, of large pictures
            return [*checks, *readers.map(lambda source: _check_headers(source, config), rest)]


def find_sets(folder: Path, base: Mapping[str, Any] | None = None) -> list[PairSet]:
    """The folder itself when it holds pairs or an addift.toml, else the folders in it, in name order.

    Hidden folders are left out; so are those that are no sets, which the first set's notes name. `base` holds the
    settings of all sets. Never raises for a set: what is wrong with it is its `problem`.
    """
    whole = find_set(folder, base)
    try:
        inner = {} if whole.pairs or settings_file(whole.folder) else inner_folders(whole.folder)
        full = [each for each, is_part in inner.items() if not is_part and _may_be_set(each)]
    except OSError:  # then this is the problem of `whole`
        return [whole]
    if not full:
        return [whole]
    sets = [find_set(each, base) for each in full]
    others = [shown(each.name) for each in inner if each not in full]
    if others:
        note = f"folders beside it that are no sets (empty, or called as a part of one): {', '.join(others)}"
        sets[0] = replace(sets[0], notes=(*sets[0].notes, note))
    return _with_own_names(sets)


def find_set(folder: Path, base: Mapping[str, Any] | None = None) -> PairSet:
    """The set in a folder. Never raises: what is wrong is its `problem`."""
    folder = Path(os.path.abspath(folder))  # '.' has no name
    result = PairSet(safe_name(folder.name), folder)
    try:
        if not folder.is_dir():
            raise PictureError(f"'{shown(str(folder))}' is no folder: check the path.")
        own = read_settings(folder)
        found = find_pictures(folder) or find_pairs(folder, own.suffix, own.mask_file)
        notes = found.notes
        if not own.name and result.name != folder.name:
            notes += (f"the LoRA is called '{result.name}', because it cannot be called as the folder",)
        name = own.name or result.name
        settings = {
            **({"method": method_for_single_pictures()} if any(pair.is_single for pair in found.pairs) else {}),
            **own.config,
        }
        result = PairSet(name, folder, found.pairs, settings, notes, found.problem, own.overwrite)
        result = replace(result, pairs=_weighted(found.pairs, own) if found.pairs else ())
        config = result.config(base)
        if result.pairs:
            check_sources(config, result.pairs)
    except AddiftError as error:
        return replace(result, problem=result.problem or str(error))
    except OSError as error:
        return replace(result, problem=f"'{shown(str(folder))}' cannot be read ({error.strerror}): check the folder.")
    return result


def _may_be_set(folder: Path) -> bool:
    """Whether a folder holds pictures or an addift.toml; True also when it cannot be read, so that this is reported."""
    try:
        return settings_file(folder) is not None or holds_pictures(folder)
    except OSError:
        return True


def _weighted(pairs: tuple[PairSource, ...], own: SetSettings) -> tuple[PairSource, ...]:
    keys = [name_key(pair.name) for pair in pairs]
    for name in own.weights:
        if name not in keys:
            raise ConfigError(f"addift.toml has a weight for '{name}', and no pair is called so: correct the name.")
    return tuple(replace(pair, weight=own.weights.get(key, 1.0)) for pair, key in zip(pairs, keys, strict=True))


def _with_own_names(sets: list[PairSet]) -> list[PairSet]:
    """The same sets; of several with one name (case-insensitive) all but the first get a problem."""
    first: dict[str, PairSet] = {}
    result = []
    for each in sets:
        other = first.setdefault(name_key(each.name), each)
        if other is not each and not each.problem:
            taken = f"its LoRA would be called '{each.name}', as that of '{shown(other.folder.name)}'"
            each = replace(each, problem=f"{taken}: write another name into addift.toml.")  # noqa: PLW2901
        result.append(each)
    return result


def _check(source: PairSource, config: TrainConfig, picture_side: int | None) -> PairCheck:
    try:
        pair = load_source(source, config)
    except PictureError as error:
        return PairCheck(source.name, None, (), str(error))
    report = examine(pair, picture_side)
    return PairCheck(source.name, (report.width, report.height), report.findings)


def _check_headers(source: PairSource, config: TrainConfig) -> PairCheck:
    try:
        return PairCheck(source.name, size_of(source, config), ())
    except PictureError as error:
        return PairCheck(source.name, None, (), str(error))
