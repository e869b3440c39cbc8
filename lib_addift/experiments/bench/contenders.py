"""What is timed: our training as shipped, ours with the rival's settings, and the rival's loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource, load_source
from lib_addift.diffusion.host import Host
from lib_addift.experiments.bench.rival import train_as_rival
from lib_addift.experiments.lab.variants import VARIANTS
from lib_addift.training.events import Request
from lib_addift.training.methods import make_config
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport

Steps = Generator[int, None, None]  # yields the number of each step after it; ends when the whole run has ended


@dataclass(frozen=True)
class Contender:
    """A way to train on a pair of pictures."""

    name: str
    words: str  # for the table
    settings: dict[str, Any]  # over the preset 'action'
    run: Callable[[Host, PairSource, TrainConfig], Steps]

    def config(self, *, steps: int, pixels: int) -> TrainConfig:
        return make_config("action", **{**self.settings, "max_train_steps": steps, "resolution": pixels})

    def turns(self, steps: int) -> int:
        """The number of samples in so many steps."""
        return steps * (2 if self.config(steps=steps, pixels=512).directions == "both" else 1)


def ours(host: Host, pairs: Sequence[PairSource], config: TrainConfig) -> Steps:
    """Our training with all that follows the last step: evaluation, preview and file."""
    run = TrainingRun(host, Request(tuple(pairs), "bench", config, overwrite=True))
    yield from (event.step for event in run.events() if isinstance(event, StepReport))


def _ours(host: Host, pair: PairSource, config: TrainConfig) -> Steps:
    yield from ours(host, [pair], config)


def _rival(host: Host, pair: PairSource, config: TrainConfig) -> Steps:
    """The rival's loop alone: it evaluates and draws nothing, and writing its file takes no time worth measuring."""
    pictures = load_source(pair, config)
    with host.exclusive(precision=config.precision):
        for number, _loss in enumerate(train_as_rival(host, pictures, config), 1):
            yield number


_PUBLISHED = dict(VARIANTS["published"].settings)
RIVAL = Contender("rival", "the rival's loop with its settings", _PUBLISHED, _rival)
SAME = Contender("same", "ours with the rival's settings: the same arithmetic", _PUBLISHED, _ours)
OURS = Contender("ours", "ours as shipped: both directions in a step, output blocks only", {}, _ours)
CONTENDERS = (RIVAL, SAME, OURS)
