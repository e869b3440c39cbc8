"""The command `lab`: methods compared on the tiny world, by figures."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_addift.errors import AddiftError, ConfigError

if TYPE_CHECKING:
    from lib_addift.experiments.lab.runner import Done, LabPlan

_SEEDS = 5
_QUICK = {"tasks": ("eyes", "mouth"), "variants": ("words", "published", "ours")}


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser("lab", help="compare methods on the bundled tiny world")
    parser.add_argument("--out", type=Path, default=Path("lab_out"), help="where figures are kept, to go on from")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="where lab.md, lab.json and plots go (default: OUT)")
    parser.add_argument("--quick", action="store_true", help="two tasks, three methods, one seed, few faces: minutes")
    parser.add_argument("--tasks", default="", metavar="A,B", help="only these")
    parser.add_argument("--methods", default="", metavar="A,B", help="only these rows of the table")
    parser.add_argument("--seeds", default="", metavar="1,2", help=f"only these (default: 1 to {_SEEDS})")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one for each core)")
    parser.set_defaults(run=run_lab)


def run_lab(options: argparse.Namespace) -> int:
    """Measure what is not measured yet and report all that is. Returns 0, or 1 when some runs gave no LoRA."""
    if importlib.util.find_spec("matplotlib") is None:
        raise AddiftError("the laboratory's plots need matplotlib: run 'pip install matplotlib'.")
    from lib_addift.experiments.lab.report import write_report
    from lib_addift.experiments.lab.runner import all_done, run_plan
    from lib_addift.experiments.lab.summary import Summary

    plan = _plan(options)
    print(f"{len(plan.cells)} runs and {len(plan.couples)} couples; figures are kept in {options.out}.", flush=True)
    done = run_plan(plan, options.out, options.workers or os.cpu_count() or 1, _tell)
    page = write_report(Summary(all_done(plan.scale, options.out)), plan.scale, options.docs or options.out)
    failed = sum(bool(each.error) for each in done)
    print(f"See {page}." + (f" {failed} runs gave no result; the page says why." if failed else ""))
    return int(failed > 0)


def _plan(options: argparse.Namespace) -> LabPlan:
    from lib_addift.experiments.lab.bench import QUICK, Scale
    from lib_addift.experiments.lab.runner import LabPlan
    from lib_addift.experiments.lab.tasks import TASKS
    from lib_addift.experiments.lab.variants import VARIANTS

    if options.workers < 0:
        raise ConfigError(f"--workers {options.workers} is below 0: give a number of processes, or 0 for all cores.")
    quick = options.quick
    return LabPlan(
        _chosen("--tasks", options.tasks, tuple(TASKS), _QUICK["tasks"] if quick else tuple(TASKS)),
        _chosen("--methods", options.methods, tuple(VARIANTS), _QUICK["variants"] if quick else tuple(VARIANTS)),
        _seeds(options.seeds, 1 if quick else _SEEDS),
        QUICK if quick else Scale(),
    )


def _chosen(flag: str, text: str, known: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    """The names in a list with commas, in the order of `known`."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"{flag} {name} does not exist: use some of {', '.join(known)}.")
    return tuple(name for name in known if name in names) if names else default


def _seeds(text: str, default: int) -> tuple[int, ...]:
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = [0]
    if any(seed < 1 for seed in seeds):
        raise ConfigError(f"--seeds {text} is no list of whole numbers from 1 on: write --seeds 1,2,3.")
    return tuple(sorted(set(seeds))) or tuple(range(1, default + 1))


def _tell(done: Done, count: int, total: int) -> None:
    figures = done.figures
    if done.error:
        text = f"no result: {done.error}"
    elif "hits" in figures:
        text = f"{figures['hits']:.0%} at 1, {figures['reverse_hits']:.0%} at -1, {figures['flips']:.0%} flips"
    else:
        text = f"{figures['both']:.0%} show both, {figures['product']:.0%} expected"
    when = f", {done.seconds:.0f} s" if done.seconds else ", measured before"
    print(f"{count}/{total} {done.work.name}: {text}{when}", flush=True)
