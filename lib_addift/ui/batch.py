"""The tab 'Batch': find the image sets in a folder, then queue them. Both run in the background. No gradio."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lib_addift.data.pictures import load_picture
from lib_addift.errors import AddiftError, HostError, JobError, PictureError
from lib_addift.jobs.files import side_by_side
from lib_addift.jobs.queue import Jobs
from lib_addift.sets.plan import Planned, plan_batch, with_seconds
from lib_addift.training.methods import from_mapping
from lib_addift.ui.background import BackgroundTask, Work


@dataclass
class Row:
    """One set of the folder: the request that it gives, and whether that is queued."""

    planned: Planned
    thumbnail: Image.Image | None  # of its first pair
    is_queued: bool = False
    refusal: str = ""  # why it could not be queued

    @property
    def problem(self) -> str:
        """Why it cannot be trained, or ''."""
        return self.refusal or self.planned.problem

    @property
    def is_ready(self) -> bool:
        return not (self.is_queued or self.problem)


class Batch:
    """The sets of the folder that was scanned last; `task` says what is being done with them."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self.task = BackgroundTask("addift-batch")
        self.folder, self.overwrite = "", False  # as the latest scan was given them
        self.settings: Mapping[str, Any] = {}  # those for all sets, at the latest scan
        self.rows: list[Row] = []
        self.scans = 0  # how often `rows` was replaced

    @property
    def ready_count(self) -> int:
        """How many sets can be queued now."""
        return 0 if self.task.is_busy else sum(row.is_ready for row in self.rows)

    def scan(self, folder: str, settings: Mapping[str, Any], *, overwrite: bool) -> threading.Thread:
        """Start to find and check the sets of a folder. Raises PictureError, ConfigError or JobError."""
        text = folder.strip().strip('"')  # Windows copies a path with quotes
        path = Path(text).expanduser()
        if not text:
            raise PictureError("no folder is named: type the path of a folder with pairs, or with folders of pairs.")
        if not path.is_dir():
            raise PictureError(f"there is no folder '{text}' on the computer that trains: check the path.")
        from_mapping(settings)  # one error about the settings, rather than one for each set

        def prepare() -> Work:
            self.folder, self.overwrite, self.settings = folder, overwrite, settings
            return functools.partial(self._scan, path, settings, overwrite)

        return self.task.start(prepare, "looking at the pictures")

    def queue_all(self, settings: Mapping[str, Any], *, overwrite: bool) -> threading.Thread:
        """Start to queue every set that can be trained. Raises ConfigError, or JobError when there is none."""
        rows = [row for row in self.rows if row.is_ready]
        if not rows:
            raise JobError("there is nothing to queue: look at a folder in which a set can be trained.")
        from_mapping(settings)
        return self.task.start(lambda: functools.partial(self._queue, rows, settings, overwrite), "queueing")

    def _scan(self, folder: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
        planned = plan_batch(folder, settings, self._jobs.host, overwrite=overwrite, estimate=False)
        self.rows, self.scans = [Row(each, _thumbnail(each)) for each in planned], self.scans + 1
        self._estimate()

    def _estimate(self) -> None:
        """Add how long each set will take, if the model is free to be measured."""
        if not any(row.planned.request for row in self.rows):
            self.task.set_text("")
        elif any(job.is_running for job in self._jobs.all()):
            self.task.set_text("no times yet, as a training runs: look again when it has ended")
        else:
            self.task.set_text("measuring how long they will take")
            try:
                planned = with_seconds([row.planned for row in self.rows], self._jobs.host)
            except HostError as error:
                self.task.set_text(f"no times: {error}")
                return
            for row, each in zip(self.rows, planned, strict=True):
                row.planned = each
            self.task.set_text("")

    def _queue(self, rows: Sequence[Row], settings: Mapping[str, Any], overwrite: bool) -> None:
        with self._jobs.held():
            for number, row in enumerate(rows, 1):
                self.task.set_text(f"queueing {number} of {len(rows)}: {row.planned.set.name}")
                try:
                    self._jobs.submit(row.planned.set.request(settings, overwrite))
                    row.is_queued = True
                except AddiftError as error:
                    row.refusal = str(error)
        queued = sum(row.is_queued for row in rows)
        self.task.set_text(f"{queued} of {len(rows)} queued: the tab 'Queue' shows how they get on")


def _thumbnail(planned: Planned) -> Image.Image | None:
    """The first pair, small; None where it cannot be read, which the set's problem says."""
    if not planned.set.pairs:
        return None
    first = planned.set.pairs[0]
    try:
        return side_by_side(load_picture(first.original, "original"), load_picture(first.target, "target"))
    except PictureError:
        return None
