"""The routes under /addift/v1, a thin layer over Jobs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from fastapi import Depends, FastAPI, Path, Query
from starlette.concurrency import run_in_threadpool

from lib_addift import TITLE
from lib_addift.api.answers import config_answer, job_answer, pair_answer
from lib_addift.api.errors import BASIC, LoraNameError, UnknownJobError, error_responses, route_class
from lib_addift.api.models import (
    ConfigAnswer,
    JobAnswer,
    PairAnswer,
    PairBody,
    PicturesBody,
    PresetsAnswer,
    QueueAnswer,
    StepAnswer,
    TrainBody,
)
from lib_addift.api.pairs import MOST_PAIRS, PairsApi
from lib_addift.api.paths import Folders
from lib_addift.api.pictures import EncodedPicture, check_pixels, decoding, encode_png, read_picture
from lib_addift.config.presets import DEFAULT_PRESET, PRESETS
from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource, load_pair
from lib_addift.errors import JobError, LoraFileError, PictureError
from lib_addift.jobs.files import KeptSnapshot
from lib_addift.jobs.queue import Job, Jobs
from lib_addift.lora.file import check_name
from lib_addift.training.dataset import with_usual_steps
from lib_addift.training.events import Request
from lib_addift.training.methods import make_config

PREFIX = "/addift/v1"
_POLL_INTERVAL = 0.1  # seconds

_JOB = Path(..., description="The job's id")
_STEP = Path(..., description="One of the job's kept steps")
_WAIT = Query(False, description="Answer only when nothing about the job changes any more")
_PICTURES = Query(False, description="Send the pictures too")
_KEEP = Query(False, description="Save what was learnt so far as NAME-stepN")
_FRESH = Query(False, description="From the start, though there is a checkpoint to go on from")
_BEFORE = Query(None, description="The id of a job that waits; without one: to the end")


def add_routes(
    app: FastAPI,
    jobs: Jobs,
    *,
    credentials: Mapping[str, str] | None,
    picture_dirs: Sequence[FilePath],
    allowed_origins: re.Pattern[str] | None = None,
) -> None:
    """Add the API to a WebUI's app.

    Args:
        credentials: user -> password, of which requests must bring one with HTTP Basic; None: everybody may.
        picture_dirs: folders whose pictures requests may name by path; empty: none.
        allowed_origins: sites, as https://example.org, whose pages may change something too; None: no other site's.
    """
    denied = () if credentials is None else (401,)
    dependencies = [Depends(BASIC)] if denied else []  # for /docs only: the route class asks earlier
    kind = route_class(credentials, allowed_origins)
    folders = Folders(tuple(folder.absolute() for folder in picture_dirs), (jobs.host.lora_dir.absolute(),))
    for method, path, endpoint, summary, codes in [
        *_table(_Api(jobs, folders)),
        *PairsApi(jobs.host, folders.pictures).table(),
    ]:
        changing = () if method == "GET" else (403, 415)
        app.router.add_api_route(
            PREFIX + path, endpoint, methods=[method], summary=summary, tags=[TITLE], dependencies=dependencies,
            responses=error_responses(*denied, *changing, *codes), route_class_override=kind,
        )  # fmt: skip
    app.openapi_schema = None  # if somebody has looked at /docs already, it is written anew


def _table(api: _Api) -> list[tuple[str, str, Callable[..., Any], str, tuple[int, ...]]]:
    """Method, path, endpoint, summary and error codes of every route."""
    return [
        ("POST", "/train", api.train, "Learn the difference of two pictures, or of several pairs", (409, 413, 422)),
        ("GET", "/jobs", api.jobs, "All jobs, the oldest first", ()),
        ("GET", "/jobs/{job_id}", api.job, "How a job stands", (404, 422)),
        ("POST", "/jobs/{job_id}/stop", api.stop, "Stop a job after its current step", (404, 409, 422)),
        ("POST", "/jobs/{job_id}/retry", api.retry, "Queue an ended job again", (404, 409, 422)),
        ("POST", "/jobs/{job_id}/move", api.move, "Move a job that waits", (404, 409, 422)),
        ("DELETE", "/jobs/{job_id}", api.remove, "Forget an ended job", (404, 409, 422)),
        ("GET", "/queue", api.queue, "What waits", ()),
        ("POST", "/queue/pause", api.pause, "Begin no further job", ()),
        ("POST", "/queue/resume", api.resume, "Go on with the queue", ()),
        ("GET", "/jobs/{job_id}/steps/{step}", api.step, "Look at a kept step", (404, 422)),
        ("POST", "/jobs/{job_id}/steps/{step}/save", api.save_step, "Save a kept step as NAME-stepN", (404, 409, 422)),
        ("GET", "/presets", api.presets, "The presets", ()),
        ("GET", "/config", api.config, "The settings, as a JSON schema", ()),
        ("POST", "/pair", api.pair, "Ask the pair doctor about two pictures", (413, 422)),
    ]


class _Api:
    """The endpoints. What takes long runs in threads, so that the WebUI's event loop goes on."""

    def __init__(self, jobs: Jobs, folders: Folders) -> None:
        self._jobs, self._folders = jobs, folders

    async def train(self, body: TrainBody, wait: bool = _WAIT, pictures: bool = _PICTURES) -> JobAnswer:
        """Checks everything, queues a job and answers at once. The LoRA is saved in the WebUI's LoRA folder."""
        job = await run_in_threadpool(self._submit, body)
        return await _answer(job, wait, pictures)

    def jobs(self) -> list[JobAnswer]:
        """Those that wait, run or have ended; also from before the WebUI was started."""
        return [job_answer(job) for job in self._jobs.all()]

    async def job(self, job_id: str = _JOB, wait: bool = _WAIT, pictures: bool = _PICTURES) -> JobAnswer:
        """Progress, losses and, when it is done, the result."""
        return await _answer(self._job(job_id), wait, pictures)

    async def stop(
        self, job_id: str = _JOB, keep: bool = _KEEP, wait: bool = _WAIT, pictures: bool = _PICTURES
    ) -> JobAnswer:
        """A job that waits in the queue never starts. Nothing is saved, unless `keep` is true."""
        job = self._job(job_id)
        if job.has_ended:
            raise JobError(f"job '{job_id}' has ended already ({job.state.value}), so there is nothing to stop.")
        self._jobs.stop(job_id, keep)
        return await _answer(job, wait, pictures)

    async def retry(
        self, job_id: str = _JOB, fresh: bool = _FRESH, wait: bool = _WAIT, pictures: bool = _PICTURES
    ) -> JobAnswer:
        """Goes on from the last checkpoint, with the same result as if it had never ended; a done job begins anew."""
        self._job(job_id)
        job = await run_in_threadpool(self._jobs.retry, job_id, from_start=fresh)
        return await _answer(job, wait, pictures)

    def move(self, job_id: str = _JOB, before: str | None = _BEFORE) -> QueueAnswer:
        """To before another one, or to the end of the queue."""
        for each in (job_id, before):
            if each is not None:
                self._job(each)
        self._jobs.move(job_id, before)
        return self.queue()

    def remove(self, job_id: str = _JOB) -> JobAnswer:
        """With its pictures and kept steps; the LoRAs that it saved stay. Answers how the job stood."""
        answer = job_answer(self._job(job_id))
        self._jobs.remove(job_id)
        return answer

    def queue(self) -> QueueAnswer:
        """The jobs that wait, in their order, and whether the queue is paused."""
        waiting = [job.id for job in self._jobs.queue()]
        return QueueAnswer(paused=self._jobs.is_paused, waiting=waiting, notice=self._jobs.notice)

    def pause(self) -> QueueAnswer:
        """What runs goes on to its end. A restart of the WebUI does not change that."""
        self._jobs.pause()
        return self.queue()

    def resume(self) -> QueueAnswer:
        """Begins with the first job that waits."""
        self._jobs.resume()
        return self.queue()

    def step(self, job_id: str = _JOB, step: int = _STEP) -> StepAnswer:
        """The strip after so many steps, at the weights that the LoRA had before calibration."""
        return StepAnswer(step=step, strip=encode_png(self._snapshot(job_id, step).strip))

    async def save_step(
        self, job_id: str = _JOB, step: int = _STEP, wait: bool = _WAIT, pictures: bool = _PICTURES
    ) -> JobAnswer:
        """Queues the saving and answers at once; the file then appears in `saved_steps`."""
        self._snapshot(job_id, step)
        return await _answer(self._jobs.save_step(job_id, step), wait, pictures)

    def presets(self) -> PresetsAnswer:
        """For each kind of difference, the settings that differ from the defaults."""
        return PresetsAnswer(default=DEFAULT_PRESET, presets=PRESETS)

    def config(self) -> ConfigAnswer:
        """What `settings` of a request may hold."""
        return config_answer()

    def pair(self, body: PairBody) -> PairAnswer:
        """Measures how well two pictures fit each other and shows where the LoRA would learn. Trains nothing."""
        config = self._config(body)
        original, target = self._pictures(body)
        _check_pixels([PairSource(original, target)], config)
        with decoding:
            pair = load_pair(original, target, config)
        return pair_answer(pair, self._jobs.host.picture_side)

    def _submit(self, body: TrainBody) -> Job:
        try:
            check_name(body.name)
        except LoraFileError as error:
            raise LoraNameError(str(error)) from error
        config = self._config(body)  # before any picture is decoded
        pairs = self._pairs(body)
        _check_pixels(pairs, config)
        config = with_usual_steps(config, pairs, body.settings)
        return self._jobs.submit(Request(pairs, body.name, config, body.overwrite))

    def _pairs(self, body: TrainBody) -> tuple[PairSource, ...]:
        """All pairs of a request, numbered in messages where there are several."""
        if len(body.more_pairs) >= MOST_PAIRS:
            raise PictureError(
                f"the request has {len(body.more_pairs) + 1} pairs: send at most {MOST_PAIRS}, or train on a folder."
            )
        name = "1" if body.more_pairs else ""
        pairs = [PairSource(*self._pictures(body), name, body.original_prompt, body.target_prompt)]
        for number, more in enumerate(body.more_pairs, 2):
            try:
                pictures = self._pictures(more)
            except PictureError as error:
                raise PictureError(f"pair '{number}': {error}") from error
            pairs.append(PairSource(*pictures, str(number), more.original_prompt, more.target_prompt))
        return tuple(pairs)

    def _pictures(self, body: PicturesBody) -> tuple[EncodedPicture, EncodedPicture]:
        """The original and the target."""
        return (
            read_picture(body.original, body.original_path, "original", self._folders.pictures),
            read_picture(body.target, body.target_path, "target", self._folders.pictures),
        )

    def _config(self, body: PairBody) -> TrainConfig:
        """Preset and settings, whose paths have to lie in the folders that are open."""
        return make_config(body.preset, **self._folders.checked_settings(body.settings))

    def _job(self, job_id: str) -> Job:
        try:
            return self._jobs.get(job_id)
        except JobError as error:
            raise UnknownJobError(str(error)) from error

    def _snapshot(self, job_id: str, step: int) -> KeptSnapshot:
        kept = {snapshot.step: snapshot for snapshot in list(self._job(job_id).snapshots)}
        if step not in kept:
            choices = ", ".join(map(str, kept)) or "none"
            raise UnknownJobError(f"step {step} was not kept: choose one of the kept steps ({choices}).")
        return kept[step]


def _check_pixels(pairs: Sequence[PairSource], config: TrainConfig) -> None:
    """Raises PictureError when the pictures of these pairs and the settings' mask have too many pixels together."""
    pictures: list[tuple[str, Any]] = []
    for pair in pairs:
        which = f" of pair '{pair.name}'" if pair.name else ""
        pictures += [(f"original{which}", pair.original), (f"target{which}", pair.target)]
    check_pixels([*pictures, *([("mask", FilePath(config.mask_file))] if config.mask == "file" else [])])


async def _answer(job: Job, wait: bool, pictures: bool) -> JobAnswer:
    while wait and job.is_active:  # without a thread, of which the WebUI's server has 40
        await asyncio.sleep(_POLL_INTERVAL)
    return await run_in_threadpool(job_answer, job, pictures=pictures)
