"""A page of the tab without a browser, and what a test types into it."""

from __future__ import annotations

import dataclasses
from typing import Any

from PIL import Image

from lib_addift.demo import world
from lib_addift.jobs.queue import Job
from lib_addift.ui import form
from lib_addift.ui.batch_handlers import BatchHandlers
from lib_addift.ui.handlers import Handlers
from lib_addift.ui.pairs_handlers import PairsHandlers
from lib_addift.ui.queue_handlers import QueueHandlers
from lib_addift.ui.row_buttons import RowButtons
from lib_addift.ui.settings_handlers import SettingsHandlers
from lib_addift.ui.tools_handlers import ToolHandlers

NASTY = "<img src=x onerror=alert(1)> & \"quoted\" 'single' ${value} {{name}} @children"
QUICK = {"max_train_steps": 4, "preview_every": 2, "sampling_steps": 2, "resolution": 64}


def pair() -> tuple[Image.Image, Image.Image]:
    face = world.Face()
    return world.draw(face), world.draw(dataclasses.replace(face, eyes="closed"))


class Page:
    """An open page of the tab: sends what a browser would, and shows what comes back."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        queue, pairs = QueueHandlers(handlers), PairsHandlers(handlers)
        rows = RowButtons(queue, pairs, SettingsHandlers(handlers))
        self._parts = (handlers, BatchHandlers(handlers), rows, queue, pairs, ToolHandlers(handlers))
        self.shown: dict[str, Any] = {"seen": ""}
        self.changed: dict[str, Any] = {}
        self.do("restore")

    def do(self, handler: str, **values: Any) -> dict[str, Any]:
        self.shown |= values
        part = next(each for each in self._parts if hasattr(each, handler))
        self.changed = getattr(part, handler)(dict(self.shown))
        for key, change in self.changed.items():
            self.shown[key] = change.get("value", self.shown.get(key)) if isinstance(change, form.Props) else change
        for key, change in self.changed.items():
            if isinstance(change, form.Props) and "visible" in change:
                self.shown[f"{key} is visible"] = change["visible"]
        return self.changed

    def put_pair(self) -> None:
        original, target = pair()
        self.do("take_pictures", original=original, target=target)
        self.shown |= {"original": original, "target": target}

    def train(self, name: str, **settings: Any) -> dict[str, Any]:
        return self.do("train", name=name, **{**QUICK, **settings})


def wait(page: Page) -> None:
    job = page.handlers.jobs.latest()
    assert job is not None
    assert not page.handlers.jobs.wait(job.id, timeout=60).is_active
    page.do("refresh")


def queued(page: Page, *names: str) -> list[Job]:
    """These jobs, of one pair each, waiting in a queue that is paused."""
    page.do("pause")
    page.put_pair()
    for name in names:
        page.train(name)
    assert page.shown["alert"] == ""
    return page.handlers.jobs.queue()


def act(page: Page, action: str, job: Job) -> None:
    page.do("press_row_button", act=f"{action} {job.id}")
