"""The tab 'Batch': a folder of image sets, looked at and then queued, in a thread, for both take a while. No gradio."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lib_addift.data.pictures import load_picture
from lib_addift.errors import OUT_OF_MEMORY, AddiftError, HostError, JobError, PictureError
from lib_addift.jobs.files import side_by_side
from lib_addift.jobs.queue import Jobs
from lib_addift.sets.plan import Planned, plan_batch, with_seconds
from lib_addift.training.methods import from_mapping

_log = logging.getLogger(__name__)


@dataclass
class Row:
    """One set of the folder: what it would become, and whether it is on its way."""

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
    """The folder that was looked at last; `version` grows with every change."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs, self._lock = jobs, threading.Lock()
        self.folder, self.overwrite = "", False  # as they were asked for
        self.settings: Mapping[str, Any] = {}  # those for all sets at that time
        self.rows: list[Row] = []
        self.text = ""  # what it is doing, or how it ended
        self.error = ""  # why it did not get there
        self.is_busy = False
        self.looked = 0  # how often there were new rows
        self.version = 0

    @property
    def ready(self) -> int:
        """How many sets can be queued now."""
        return 0 if self.is_busy else sum(row.is_ready for row in self.rows)

    def look(self, folder: str, settings: Mapping[str, Any], *, overwrite: bool) -> threading.Thread:
        """Begin to look at a folder. Raises an AddiftError when that makes no sense."""
        text = folder.strip().strip('"')  # Windows copies a path with quotes
        path = Path(text).expanduser()
        if not text:
            raise PictureError("no folder is named: type the path of a folder with pairs, or with folders of pairs.")
        if not path.is_dir():
            raise PictureError(f"there is no folder '{text}' on the computer that trains: check the path.")
        from_mapping(settings)  # said once, and not of every set

        def work() -> None:
            planned = plan_batch(path, settings, self._jobs.host, overwrite=overwrite, estimate=False)
            self.rows, self.looked = [Row(each, _thumbnail(each)) for each in planned], self.looked + 1
            self._estimate()

        thread = self._begin(work, "looking at the pictures")
        self.folder, self.overwrite, self.settings = folder, overwrite, settings
        return thread

    def train(self, settings: Mapping[str, Any], *, overwrite: bool) -> threading.Thread:
        """Begin to queue every set on show that can be trained. Raises an AddiftError when there is none."""
        rows = [row for row in self.rows if row.is_ready]
        if not rows:
            raise JobError("there is nothing to queue: look at a folder in which a set can be trained.")
        from_mapping(settings)

        def work() -> None:
            with self._jobs.held():
                for number, row in enumerate(rows, 1):
                    self._say(f"queueing {number} of {len(rows)}: {row.planned.set.name}")
                    try:
                        self._jobs.submit(row.planned.set.request(settings, overwrite))
                        row.is_queued = True
                    except AddiftError as error:
                        row.refusal = str(error)
            queued = sum(row.is_queued for row in rows)
            self._say(f"{queued} of {len(rows)} queued: the tab 'Queue' shows how they get on")

        return self._begin(work, "queueing")

    def _estimate(self) -> None:
        """Add how long each set will take, if the model is free to be asked."""
        if not any(row.planned.request for row in self.rows):
            self._say("")
        elif any(job.is_running for job in self._jobs.all()):
            self._say("no times yet, as a training runs: look again when it has ended")
        else:
            self._say("measuring how long they will take")
            try:
                planned = with_seconds([row.planned for row in self.rows], self._jobs.host)
            except HostError as error:
                self._say(f"no times: {error}")
                return
            for row, each in zip(self.rows, planned, strict=True):
                row.planned = each
            self._say("")

    def _begin(self, work: Callable[[], None], text: str) -> threading.Thread:
        """Do `work` in a thread of its own, one at a time. Raises JobError while another goes on."""
        with self._lock:
            if self.is_busy:
                raise JobError(f"wait a moment, this is not done yet: {self.text}.")
            self.is_busy, self.error = True, ""
            self._say(text)
        thread = threading.Thread(target=self._do, args=(work,), name="addift-batch", daemon=True)
        thread.start()
        return thread

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except AddiftError as error:
            self.error = str(error)
        except MemoryError:
            self.error = OUT_OF_MEMORY
        except Exception as error:  # the thread ends here; a person sees the sentence
            _log.exception("the batch of '%s' failed", self.folder)
            self.error = f"unexpected {type(error).__name__}: {error}. The console has the details."
        self.is_busy = False
        self._say("" if self.error else self.text)

    def _say(self, text: str) -> None:
        self.text = text
        self.version += 1


def _thumbnail(planned: Planned) -> Image.Image | None:
    """The first pair, small; None where it cannot be read, which the set's problem says."""
    if not planned.set.pairs:
        return None
    first = planned.set.pairs[0]
    try:
        return side_by_side(load_picture(first.original, "original"), load_picture(first.target, "target"))
    except PictureError:
        return None
