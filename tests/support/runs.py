"""Short runs on a fake host, and what they report and write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lib_addift.config.settings import BLOCKS, LAYER_KINDS, TrainConfig
from lib_addift.demo import world
from lib_addift.training.events import Event, Request, ResumeState, Snapshot
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from tests.support.fake_host import FakeHost

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
SMALL = {"max_train_steps": 3, "sampling_steps": 2, "rank": 2, "layers": LAYER_KINDS, "blocks": BLOCKS}


def start(
    host: FakeHost, name: str = "blink", *, overwrite: bool = False, keep_snapshots: bool = False, **settings: Any
) -> TrainingRun:
    config = TrainConfig.create(**{**SMALL, **settings})
    return TrainingRun(
        host, Request.of(ORIGINAL, TARGET, name, config, overwrite=overwrite), keep_snapshots=keep_snapshots
    )


def finish(host: FakeHost, name: str = "blink", **options: Any) -> TrainingRun:
    run = start(host, name, **options)
    list(run.events())
    return run


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def label(event: Event) -> str:
    if isinstance(event, (Snapshot, ResumeState)):
        return f"{'kept' if isinstance(event, Snapshot) else 'checkpoint'} {event.step}"
    return f"step {event.step}" if isinstance(event, StepReport) else event.text
