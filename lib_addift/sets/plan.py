"""The plan of a folder of image sets before training: each set's request, its problems and its estimated time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_addift.data.pictures import Size
from lib_addift.diffusion.host import Host
from lib_addift.errors import AddiftError
from lib_addift.lora.file import lora_path
from lib_addift.sets.find import PairCheck, PairSet, find_sets
from lib_addift.training.estimate import passes, seconds_a_pass
from lib_addift.training.events import Request

LOOKED_INTO = 16  # pairs of a plan whose pixels the doctor looks at; of more, only the files' headers are read


@dataclass(frozen=True)
class Planned:
    """A set and its request, checks and estimated time."""

    set: PairSet
    request: Request | None  # None when it cannot be trained
    checks: tuple[PairCheck, ...] = ()  # one for each pair
    problem: str = ""  # one sentence when it cannot be trained, or ''
    seconds: float | None = None  # estimated; None where no estimate was asked for or there is none


def plan_batch(
    folder: Path, base: Mapping[str, Any], host: Host, *, overwrite: bool = False, estimate: bool = True
) -> list[Planned]:
    """Plan the training of a folder of sets with the settings `base`, as `from_mapping` takes them.

    Trains nothing. The doctor looks at the first pairs only (`LOOKED_INTO`); before training it looks at all. With
    `estimate` the model runs once for each size of pictures, so it must be free. Never raises for a set; raises
    HostError when there is no model to time.
    """
    planned, left = [], LOOKED_INTO
    for each in find_sets(folder, base):
        planned.append(_planned(each, base, host, overwrite, left))
        left = max(0, left - len(each.pairs))
    return with_seconds(planned, host) if estimate else planned


def _planned(found: PairSet, base: Mapping[str, Any], host: Host, overwrite: bool, look_into: int) -> Planned:
    if found.problem:
        return Planned(found, None, problem=found.problem)
    try:
        request = found.request(base, overwrite)
        checks = tuple(found.examine(request.config, look_into, host.picture_side))
        problem = next((check.problem for check in checks if check.problem), "")
        lora_path(host.lora_dir, request.name, overwrite=request.overwrite)
    except AddiftError as error:
        return Planned(found, None, problem=str(error))
    return Planned(found, None if problem else request, checks, problem)


def with_seconds(planned: Sequence[Planned], host: Host) -> list[Planned]:
    """The same with estimated times on this host, whose model must be free. Raises HostError when there is none."""
    measured: dict[Size, float] = {}
    result = []
    for each in planned:
        size = each.checks[0].size if each.checks else None
        if each.request is None or size is None:
            result.append(each)
            continue
        config = each.request.config
        if size not in measured:
            with host.exclusive(precision=config.precision):
                measured[size] = seconds_a_pass(host, size)
        seconds = measured[size] * passes(config, len(each.checks))
        result.append(Planned(each.set, each.request, each.checks, each.problem, seconds))
    return result
