"""The API's answers, made from jobs, results, pairs and settings."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lib_addift.api.models import ConfigAnswer, FindingAnswer, JobAnswer, LogAnswer, PairAnswer, ResultAnswer
from lib_addift.api.pictures import encode_png
from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import PairReport, examine, mask_overlay
from lib_addift.data.pairs import ImagePair
from lib_addift.jobs.files import KeptResult
from lib_addift.jobs.queue import Job

_JSON_TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}


def job_answer(job: Job, *, pictures: bool = False) -> JobAnswer:
    """The state of a job. Its lists are copied first, as the worker may append to them meanwhile."""
    results, snapshots = list(job.results), list(job.snapshots)
    finished = next((result for result in reversed(results) if result.path.stem == job.name), None)
    strips = [snapshot.strip for snapshot in snapshots] + [result.strip for result in results] if pictures else []
    return JobAnswer(
        id=job.id,
        name=job.name,
        state=job.state,
        text=job.text,
        step=job.step,
        total=job.total,
        progress=job.progress,
        seconds_left=job.seconds_left,
        losses=[loss if math.isfinite(loss) else None for loss in list(job.losses)],
        error=job.error,
        created=job.created,
        started=job.started,
        finished=job.finished,
        findings=_findings(job.report),
        log=[LogAnswer(time=when, text=text) for when, text in list(job.log)],
        result=result_answer(finished, pictures=pictures) if finished else None,
        kept_steps=[snapshot.step for snapshot in snapshots],
        saved_steps=[result_answer(result, pictures=pictures) for result in results if result is not finished],
        strip=encode_png(strips[-1]) if strips else None,
    )


def result_answer(result: KeptResult, *, pictures: bool) -> ResultAnswer:
    grid = result.grid if pictures else None
    return ResultAnswer(
        name=result.path.stem,
        tag=result.tag,
        path=str(result.path),
        steps=result.steps,
        train_seconds=result.train_seconds,
        recovery=result.round_trip.recovery,
        weight=result.weight,
        new_pictures=result.new_pictures.count,
        reach=result.new_pictures.reach,
        spread=result.new_pictures.spread,
        new_pictures_seconds=result.new_pictures.seconds,
        level=result.level.value,
        verdict=result.verdict,
        search=dict(result.search),
        strip=encode_png(result.strip) if pictures else None,
        pictures=encode_png(result.pictures) if pictures else None,
        grid=encode_png(grid) if grid else None,
    )


def pair_answer(pair: ImagePair, picture_side: int | None) -> PairAnswer:
    """What the doctor says of a pair."""
    report = examine(pair, picture_side)
    return PairAnswer(
        width=report.width,
        height=report.height,
        shift=list(report.shift),
        colour_shift=list(report.colour_shift),
        changed_share=report.changed_share,
        findings=_findings(report),
        overlay=encode_png(mask_overlay(pair)),
    )


def config_answer() -> ConfigAnswer:
    """Every setting as JSON schema has it."""
    properties = {field.name: _property(field) for field in dataclasses.fields(TrainConfig)}
    return ConfigAnswer(title="TrainConfig", type="object", additionalProperties=False, properties=properties)


def _findings(report: PairReport) -> list[FindingAnswer]:
    return [FindingAnswer(level=finding.level, text=finding.text) for finding in report.findings]


def _property(field: dataclasses.Field[Any]) -> dict[str, Any]:
    rules, default = field.metadata, field.default
    schema: dict[str, Any] = {"title": rules["label"], "description": rules["help"]}
    if isinstance(default, tuple):
        items = {"type": "string", "enum": list(rules["choices"])}
        schema |= {"type": "array", "items": items, "minItems": 1, "default": list(default)}
    else:
        schema |= {"type": _JSON_TYPES[str(field.type)], "default": default}
        if "choices" in rules:
            schema["enum"] = list(rules["choices"])
    if "low" in rules:
        schema |= {"minimum": rules["low"], "maximum": rules["high"]}
    if "path" in rules:
        schema["x-path"] = rules["path"]
    return {**schema, "x-advanced": rules.get("advanced", True)}
