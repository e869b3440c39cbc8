"""Judges the recipe search: what it says of each recipe, and the truth.

    python -m lib_addift.experiments.judge_search --tasks eyes,skin,position --seeds 1,2 --out search.jsonl

Trains the recipes on a random face of each task and seed, as a search does, and draws new faces with each of them at
the weight that was chosen. Prints a line for each recipe and a summary, and appends the figures to a file, if one is
given. A search with its pictures takes about two and a half minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.experiments.lab import metrics
from lib_addift.experiments.lab.bench import Bench, Scale
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.experiments.lab.variants import VARIANTS
from lib_addift.experiments.lab.worlds import TASKS, WORLDS
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.events import Request
from lib_addift.training.networks import load_lora
from lib_addift.training.search import Candidate, SearchRun, rank

_SCALE = Scale(faces=16)


@dataclass(frozen=True)
class Tried:
    """A recipe: what was measured of it, whether the search chose it, and the shares of new faces by the detectors."""

    name: str
    new: NewPictures
    recovery: float
    is_chosen: bool
    hits: float
    flips: float

    @property
    def truth(self) -> float:
        """What a good choice maximises."""
        return self.hits - self.flips


class _KeepingSearch(SearchRun):
    """A search that keeps its recipes."""

    tried: tuple[Candidate, ...] = ()

    def close(self) -> None:
        """See SearchRun."""
        self.tried = self.candidates or self.tried
        super().close()


def judge(bench: Bench, task: LabTask, seed: int, **settings: Any) -> list[Tried]:
    """Search on a random face of the task and draw new faces with each recipe."""
    variant = VARIANTS["searched"]
    pairs, config = tuple(variant.sources(bench, task, seed)), variant.config(task, seed)
    run = _KeepingSearch(bench.host, Request(pairs, "searched", config, overwrite=True))
    list(run.events())
    measured = {each: each.measured for each in run.tried if each.measured}
    best = max(measured, key=lambda each: rank(measured[each]))
    tried = []
    for each, figures in measured.items():
        network, weight = load_lora(bench.host, each.learnt), figures.choice.weight
        hits, flips = _truth(bench, task, seed, network, weight)
        tried.append(Tried(each.name, figures.choice.new, figures.trip.recovery, each is best, hits, flips))
    return tried


def _truth(bench: Bench, task: LabTask, seed: int, network: LoraNetwork, weight: float) -> tuple[float, float]:
    """Hits and flips of a LoRA under full prompts."""
    prompts = [task.prompt(subject) for subject in task.new_subjects(seed, bench.scale.faces)]
    before = [task.world.detect(picture) for picture in bench.base(prompts, seed)]
    with network.attach():
        after = [task.world.detect(picture) for picture in bench.draw(prompts, seed, network, weight)]
    return metrics.share([task.is_hit(reading) for reading in after]), metrics.flips(before, after, task.others)


def summary(searches: Sequence[Sequence[Tried]]) -> str:
    """Mean hits and flips of the recipes that were chosen, of the first ones, and of the best there were."""
    chosen = [next(each for each in tried if each.is_chosen) for tried in searches]
    best = [max(tried, key=lambda each: each.truth) for tried in searches]
    right = sum(one.truth == other.truth for one, other in zip(chosen, best, strict=True))
    rows = {"chosen": chosen, "the settings as they are": [tried[0] for tried in searches], "the best there was": best}
    lines = [f"{right} of {len(searches)} searches chose a recipe than which none was better."]
    for name, picked in rows.items():
        hits, flips = (sum(figures) / len(picked) for figures in zip(*((e.hits, e.flips) for e in picked), strict=True))
        lines.append(f"{name}: hits {hits:.0%}, flips {flips:.0%}")
    return "\n".join(lines)


def main() -> None:
    """Judge every task with every seed."""
    from lib_addift.hosts.standalone import StandaloneHost

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="faces")
    parser.add_argument("--tasks", default="eyes,skin,position")
    parser.add_argument("--seeds", default="1,2", help="such as 1,2; below 100: the others are kept for reports")
    parser.add_argument("--out", type=Path, help="a file to which the figures are appended, as JSON lines")
    options = parser.parse_args()
    searches = []
    with tempfile.TemporaryDirectory() as folder:
        world = WORLDS[options.world]
        host = StandaloneHost(world.checkpoint, lora_dir=Path(folder), device="cpu")
        bench = Bench(world, host, _SCALE, Path(folder) / "scenes")
        for seed in map(int, options.seeds.split(",")):
            for name in options.tasks.split(","):
                tried = judge(bench, TASKS[options.world][name], seed)
                searches.append(tried)
                print("\n".join(f"{name}, seed {seed}, {line}" for line in _lines(tried)), flush=True)
                if options.out:
                    _append(options.out, name, seed, tried)
    print(summary(searches))


def _lines(tried: Sequence[Tried]) -> Iterator[str]:
    for each in tried:
        new = each.new
        yield (
            f"{each.name}: hits {each.hits:.0%}, flips {each.flips:.0%}; reach {new.reach}, spread {new.spread} of "
            f"{new.count}, recovery {each.recovery:.0%}{'; chosen' if each.is_chosen else ''}"
        )


def _append(file: Path, task: str, seed: int, tried: Sequence[Tried]) -> None:
    with file.open("a", encoding="utf-8") as out:
        for each in tried:
            new = {"sizes": each.new.sizes, "spreads": each.new.spreads, "apart": each.new.apart}
            figures = {"recipe": each.name, "hits": each.hits, "flips": each.flips, "recovery": each.recovery}
            out.write(json.dumps({"task": task, "seed": seed, **figures, **new, "weight": each.new.weight}) + "\n")


if __name__ == "__main__":
    main()
