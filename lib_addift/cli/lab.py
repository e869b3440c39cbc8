"""The command `lab`: ways to train, compared by figures in small worlds that draw and read their own pictures."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_addift.errors import ConfigError

if TYPE_CHECKING:
    from lib_addift.experiments.lab.runner import Done, LabPlan

_QUICK = {"tasks": ("eyes", "mouth"), "variants": ("ours", "words")}


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser("lab", help="compare ways to train on small synthetic worlds")
    parser.add_argument("--out", type=Path, default=Path("lab_out"), help="where figures are kept, to go on from")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="where lab.md and lab.json go (default: OUT)")
    parser.add_argument("--world", default="faces", metavar="NAME", help="the world to measure in (default: faces)")
    parser.add_argument(
        "--half", choices=("tune", "test"), default="tune",
        help="seeds below 100, to choose by, or from 100 on, to report (default: tune)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="two tasks, two rows, one seed, few faces: minutes")
    parser.add_argument("--tasks", default="", metavar="A,B", help="only these")
    parser.add_argument("--methods", default="", metavar="A,B", help="these rows instead of the table's")
    parser.add_argument("--seeds", default="", metavar="1,2", help="only these (default: 12 or 4 for each task)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one for each core)")
    parser.set_defaults(run=run_lab)


def run_lab(options: argparse.Namespace) -> int:
    """Measure what is not measured yet and report all that is. Returns 0, or 1 when some runs gave no LoRA."""
    from lib_addift.experiments.lab.report import write_report
    from lib_addift.experiments.lab.runner import all_done, run_plan
    from lib_addift.experiments.lab.summary import Run

    plan, workers = _plan(options), options.workers or os.cpu_count() or 1
    print(f"{len(plan.cells)} runs; figures are kept in {options.out}.", flush=True)
    done = run_plan(plan, options.out, workers, _Progress(workers).tell)
    everything = all_done(plan.world, plan.half, plan.scale, options.out)
    page = write_report([Run.of(each, plan.half) for each in everything], plan.scale, options.docs or options.out)
    failed = sum(bool(each.error) for each in done)
    print(f"See {page}." + (f" {failed} runs gave no result; the page says why." if failed else ""))
    return int(failed > 0)


def _plan(options: argparse.Namespace) -> LabPlan:
    from lib_addift.experiments.lab.bench import QUICK, Scale
    from lib_addift.experiments.lab.runner import LabPlan
    from lib_addift.experiments.lab.tasks import HALVES
    from lib_addift.experiments.lab.variants import TABLE, VARIANTS
    from lib_addift.experiments.lab.worlds import TASKS

    if options.workers < 0:
        raise ConfigError(f"--workers {options.workers} is below 0: give a number of processes, or 0 for all cores.")
    if options.world not in TASKS:
        raise ConfigError(f"--world {options.world} does not exist: use one of {', '.join(TASKS)}.")
    quick, tasks = options.quick, tuple(TASKS[options.world])
    seeds = _seeds(options.seeds, options.half, HALVES[options.half])
    return LabPlan(
        options.world,
        options.half,
        _chosen("--tasks", options.tasks, tasks, _QUICK["tasks"] if quick else tasks),
        _chosen("--methods", options.methods, tuple(VARIANTS), _QUICK["variants"] if quick else TABLE),
        QUICK if quick else Scale(),
        seeds or ((HALVES[options.half][0],) if quick else ()),
    )


def _chosen(flag: str, text: str, known: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    """The names in a list with commas, in the order of `known`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"{flag} {name} does not exist: use some of {', '.join(known)}.")
    return tuple(name for name in known if name in names) if names else default


def _seeds(text: str, half: str, allowed: range) -> tuple[int, ...]:
    """The seeds in a list with commas; none for an empty text."""
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = [-1]
    if any(seed not in allowed for seed in seeds):
        first, last = allowed[0], allowed[-1]
        raise ConfigError(
            f"--seeds {text} is no list of whole numbers from {first} to {last}, the half '{half}': "
            f"write --seeds {first},{first + 1}, or choose the other --half."
        )
    return tuple(sorted(set(seeds)))


class _Progress:
    """Prints each result and how long the others will take."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._seconds: list[float] = []

    def tell(self, done: Done, count: int, total: int) -> None:
        figures = done.figures
        if done.error:
            text = f"no result: {done.error}"
        else:
            text = f"{figures['hits']:.0%} at 1, {figures['reverse_hits']:.0%} at -1, {figures['flips']:.0%} flips"
        when = ", measured before"
        if done.seconds:
            self._seconds.append(done.seconds)
            left = sum(self._seconds) / len(self._seconds) * (total - count) / self._workers
            when = f", {done.seconds:.0f} s; about {left / 60:.0f} min left"
        print(f"{count}/{total} {done.cell.name}: {text}{when}", flush=True)
