"""What goes into a training run, and what comes out of it while it goes on."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import PairReport
from lib_addift.data.pairs import ImagePair, PairSource
from lib_addift.data.pictures import PictureSource
from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.evaluation.verdict import Level, level_of, verdict
from lib_addift.training.state import StepReport

_MOST_SNAPSHOTS = 30


@dataclass(frozen=True)
class Request:
    """What a person asks for: one LoRA of what all the pairs differ in."""

    pairs: tuple[PairSource, ...]
    name: str
    config: TrainConfig
    overwrite: bool = False

    @classmethod
    def of(
        cls, original: PictureSource, target: PictureSource, name: str, config: TrainConfig, *, overwrite: bool = False
    ) -> Request:
        """The request for one pair."""
        return cls((PairSource(original, target),), name, config, overwrite)


@dataclass(frozen=True)
class Stage:
    """A part of the work other than a training step has begun or gone on."""

    text: str
    done: int = 0
    total: int = 0


class KeptTensors(Protocol):
    """The LoRA of a step, wherever its tensors are."""

    @property
    def step(self) -> int: ...

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]: ...


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The LoRA as it was after `step` steps, so that a person can look at it and save it later."""

    step: int
    tensors: Mapping[str, torch.Tensor]  # kohya keys, CPU
    strip: Image.Image


def snapshot_spacing(config: TrainConfig) -> int:
    """Steps between snapshots: as asked, but no more than 30 of them, which are a few MB each; 0: a run keeps none."""
    if config.search or not config.preview_every:
        return 0
    return max(config.preview_every, math.ceil(config.max_train_steps / _MOST_SNAPSHOTS))


@dataclass(frozen=True, eq=False)
class ResumeState:
    """Where a run stands: from here another one of the same request goes on, with the same result to the bit."""

    step: int
    train_seconds: float
    state: Mapping[str, Any]  # tensors and plain values: `TrainState.state_dict`


@dataclass(frozen=True)
class ResultFigures:
    """A LoRA file that was written, and what was measured of it."""

    path: Path
    steps: int
    train_seconds: float
    round_trip: RoundTrip
    weight: float  # the multiplier of training that became weight 1
    held_out: float | None = None  # recovery on pairs that were left out of training, where some were
    is_calibrated: bool = False  # whether something measured set the weight: not where next to nothing was found
    new_pictures: NewPictures = field(default_factory=NewPictures)  # what it does to pictures that it never saw
    search: Mapping[str, Any] = field(default_factory=dict)  # where it is the best of several recipes: see SearchRun

    @property
    def verdict(self) -> str:
        """A sentence or two for the person."""
        text = verdict(self.round_trip, self.new_pictures)
        if self.held_out is not None:
            text = f"{text} Of pairs that it never saw, it reproduces {self.held_out:.0%}."
        if self.search:
            text = f"{text} The best of {len(self.search['recipes'])} recipes: {self.search['chosen']}."
        return text

    @property
    def level(self) -> Level:
        """How good it is, by all that was measured."""
        return level_of(self.round_trip, self.new_pictures)

    @property
    def tag(self) -> str:
        """What to write into a prompt."""
        return f"<lora:{self.path.stem}:1>"


@dataclass(frozen=True)
class Result(ResultFigures):
    """The same with its pictures."""

    strip: Image.Image = field(kw_only=True)
    pictures: Image.Image = field(kw_only=True)  # the round trip: each picture, without the LoRA, at weight 1 or -1
    grid: Image.Image | None = field(default=None, kw_only=True)  # the new pictures, each at weights -1, 0 and 1


@dataclass(frozen=True, eq=False)
class PreparedPairs:
    """The pictures of a request, opened, checked and fitted; and what the pair doctor says of each pair."""

    pairs: tuple[ImagePair, ...]
    reports: tuple[PairReport, ...]


Event = Stage | StepReport | Snapshot | ResumeState
Events = Generator[Event, None, None]
