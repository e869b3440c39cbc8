"""Jobs made from their rows in the store: whole ones, and what can be read of one that another version wrote.

A job of which only a part can be read has a `problem`. It is shown, it is not begun, and it can be removed or trained
anew with the settings that this version has.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import PairReport
from lib_addift.data.pairs import PairSource
from lib_addift.diffusion.host import Host
from lib_addift.errors import AddiftError, ConfigError
from lib_addift.jobs.files import JobFiles
from lib_addift.jobs.job import Job, JobState, read_report
from lib_addift.jobs.store import JobRow
from lib_addift.training.events import Request

_log = logging.getLogger(__name__)

_NO_REPORT = PairReport(0, 0, (0.0, 0.0), (0.0, 0.0, 0.0), 0.0, ())
_UNREADABLE = (AddiftError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def restored(row: JobRow, host: Host, files: JobFiles) -> Job:
    """The job of a row, with a `problem` where it is not all there."""
    try:
        record = json.loads(row.record)
        request = files.request(json.loads(row.request))
        report = read_report(record["report"])
        job = Job(row.id, request, host, files, record["model_title"], report, state=JobState(row.state))
        job.restore(record)
    except _UNREADABLE as error:
        _log.warning("job %s in '%s' can be read in part only: %r", row.id, files.folder.parent, error)
        return _salvaged(row, host, files, error)
    return job


def usable_settings(values: Mapping[str, Any]) -> tuple[TrainConfig, list[str]]:
    """The settings that this version has, and the names of the others: unknown ones and those with unknown values."""
    kept: dict[str, Any] = {}
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    left = [name for name in known if name in values]
    while taken := [name for name in left if _is_usable({**kept, name: values[name]})]:
        for name in taken:  # one by one: two that are good alone may contradict each other
            if _is_usable({**kept, name: values[name]}):
                kept[name] = values[name]
        left = [name for name in left if name not in kept]
        if not set(taken) & set(kept):
            break
    return TrainConfig.create(**kept), [str(name) for name in values if name not in kept]


def _is_usable(settings: Mapping[str, Any]) -> bool:
    try:
        TrainConfig.create(**settings)
    except (ConfigError, TypeError, ValueError, OverflowError):
        return False
    return True


def _salvaged(row: JobRow, host: Host, files: JobFiles, error: Exception) -> Job:
    """What can be read of a job, with the settings that this version has."""
    values, record = _mapping(row.request), _mapping(row.record)
    config, lost = usable_settings(_part(values, "settings"))
    name = values.get("name")
    title = record.get("model_title")
    request = Request(
        tuple(_pairs(values, files)), name if isinstance(name, str) else row.folded_name, config,
        values.get("overwrite") is True,
    )  # fmt: skip
    # The model is the loaded one where the row does not tell: a job that is trained anew is trained on that.
    common = (row.id, request, host, files, title if isinstance(title, str) else host.model_title)
    job = _with_record(Job(*common, _report(record)), record) or Job(*common, _NO_REPORT)
    states = {state.value: state for state in JobState}
    job.state = states.get(row.state, JobState.FAILED)
    job.problem = _sentence(lost, error)
    job.error = job.error or job.problem
    return job


def _sentence(lost: list[str], error: Exception) -> str:
    if lost:
        names = ", ".join(repr(name) for name in lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        return (
            f"this version does not have what another one wrote into its settings ({names}): retry it to train "
            "with the other settings, or remove it."
        )
    return f"a part of what is known of it cannot be read ({type(error).__name__}: {error}): retry it, or remove it."


def _with_record(job: Job, record: Mapping[str, Any]) -> Job | None:
    """The job as its record has it; None where that cannot be read."""
    try:
        job.restore(record)
    except _UNREADABLE:
        return None
    return job


def _report(record: Mapping[str, Any]) -> PairReport:
    try:
        return read_report(record["report"])
    except _UNREADABLE:
        return _NO_REPORT


def _pairs(values: Mapping[str, Any], files: JobFiles) -> Iterator[PairSource]:
    """The pairs of a request, as far as they can be read; else those whose pictures are in the job's folder."""
    known = {field.name for field in dataclasses.fields(PairSource)}
    pairs = values.get("pairs")
    try:
        readable = [{key: value for key, value in pair.items() if key in known} for pair in pairs or ()]
        found = list(files.pairs(readable))
    except _UNREADABLE:
        found = []
    if found:
        yield from found
        return
    count = len(list(files.folder.glob("original*.png"))) or 1
    for number in range(count):
        yield PairSource(files.folder / f"original{number}.png", files.folder / f"target{number}.png")


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _part(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = values.get(name)
    return part if isinstance(part, dict) else {}
