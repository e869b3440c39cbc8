"""Writes the laboratory's report: lab.md and lab.json. Other rows' figures and a part written by hand are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib_addift.experiments.lab.bench import Scale
from lib_addift.experiments.lab.summary import DEFAULT, Figures, Run, summary_of
from lib_addift.experiments.lab.tables import markdown_table, task_table, variant_table
from lib_addift.experiments.lab.variants import VARIANTS
from lib_addift.experiments.lab.worlds import TASKS
from lib_addift.files import replace_files

BEGIN, END = "<!-- reading: begin (written by hand; the command keeps it) -->", "<!-- reading: end -->"
_NOT_READ = "## Reading\n\nThe table of {date} has not been read yet."
_MEASURES = (
    ("good runs", "share of the seeds with at least 90 % hits and at most 5 % flips"),
    ("hits; at -1; without LoRA", "share of 24 new faces that show the change, from full prompts: they name every "
                                  "attribute but those that change"),
    ("worst tenth", "mean hits of the worst tenth of the seeds, at least of one"),
    ("flips", "share of faces in which any other attribute is read differently at weight 1 than without the LoRA"),
    ("short: hits, flips", "the same under prompts that name two other attributes, at random"),
    ("short: words flip", "flips when the words of the change are added to the short prompt, without a LoRA"),
    ("empty: hits, flips", "the same under the empty prompt"),
    ("0.5, 2", "the mean effect at these weights as a share of that at weight 1, on faces that do not show the change "
               "without the LoRA; of runs whose effect at 1 is a fifth of the whole or more"),
    ("interference", "mean change outside of the attribute's area at weight 1, in grey levels of 0 to 255"),
    ("recovery", "share of the pair's difference that the file reproduces in the round trip; a shift's at weight 1, of "
                 "others at the best"),
    ("false assurance", "of the runs whose result said that the LoRA works, the share with less than 80 % hits"),
    ("false alarm", "of the runs whose result said that it does not, the share with 90 % hits or more"),
    ("seconds", "CPU time of one thread for a run: training, measuring, and for the first row of a task the pictures "
                "without a LoRA"),
)  # fmt: skip


def write_report(runs: Sequence[Run], scale: Scale, folder: Path) -> Path:
    """Write both files to `folder`, with `runs` in the place of earlier ones of their rows (world, half, variant).

    Returns the path of lab.md. Raises OSError.
    """
    page, figures = folder / "lab.md", folder / "lab.json"
    written = {_row(run) for run in runs}
    everything = [run for run in _earlier_runs(figures) if _row(run) not in written] + list(runs)
    everything.sort(key=lambda run: (list(TASKS).index(run.world), list(VARIANTS).index(run.variant)))
    kept = page.read_text(encoding="utf-8") if page.exists() else ""
    folder.mkdir(parents=True, exist_ok=True)
    text = page_text(everything, scale, reading(kept))
    replace_files({figures: _json(everything, scale), page: text.encode()}, durable=False)
    return page


def reading(page: str) -> str:
    """The part of an earlier page that was written by hand, between BEGIN and END; '' without one."""
    if BEGIN not in page or END not in page:
        return ""
    return page.split(BEGIN, 1)[1].split(END, 1)[0].strip()


def page_text(runs: Sequence[Run], scale: Scale, kept: str) -> str:
    """The text of lab.md."""
    summary, date = summary_of(runs), time.strftime("%Y-%m-%d")
    hours = sum(run.figures.get("seconds", 0.0) for run in runs) / 3600
    parts = [
        "# The laboratory",
        "LoRAs trained from pictures of random faces and measured on new ones, which share no face, noise or prompt "
        f"with them: {scale.faces} new faces for each seed, {scale.sampling_steps} DDIM steps, guidance 4. "
        "Seeds have two halves: on `tune` everything was chosen, `test` is measured for this page alone. "
        "Written by `python -m lib_addift lab --half test --docs docs`; the figures of every run are in "
        f"[lab.json](lab.json). Table of {date}; it took {hours:.1f} hours of one core.",
        f"{BEGIN}\n\n{kept or _NOT_READ.format(date=date)}\n\n{END}",
    ]
    for half, world in dict.fromkeys((run.half, run.world) for run in runs):
        rows = {DEFAULT: summary.get(half, {}).get(world, {}), **summary.get(f"{half}_variants", {}).get(world, {})}
        parts += _world(half, world, {name: row for name, row in rows.items() if row})
    failed = [(_name(run), run.error) for run in runs if run.error]
    parts += ["## Measures", markdown_table(["measure", "what it is"], _MEASURES)]
    parts += ["## Rows", _rows(runs)]
    if failed:
        parts += ["## Without a result", markdown_table(["run", "why"], failed)]
    return "\n\n".join(parts) + "\n"


def _world(half: str, world: str, rows: dict[str, dict[str, Figures]]) -> list[str]:
    """The tables of one half of a world."""
    parts = [f"## {world}: half `{half}`", "Means over the tasks.", variant_table(rows)]
    for variant, tasks in rows.items():
        parts += [f"### {variant}: {VARIANTS[variant].words}", task_table(tasks)]
    return parts


def _rows(runs: Iterable[Run]) -> str:
    rows = []
    for name in dict.fromkeys(run.variant for run in runs):
        variant = VARIANTS[name]
        settings = _listed(variant.settings)
        if variant.style_settings:
            settings += f"; style: {_listed(variant.style_settings)}"
        if variant.swaps_style:
            settings += "; style: the pictures change places"
        rows.append([name, variant.words, settings.strip(", ;") or "none"])
    return markdown_table(["row", "what it is", "settings beside the default, or the task's preset"], rows)


def _listed(settings: Any) -> str:
    return ", ".join(f"{key} = {_short(value)}" for key, value in settings.items())


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _row(run: Run) -> tuple[str, str, str]:
    return run.half, run.world, run.variant


def _name(run: Run) -> str:
    return f"{run.world} {run.task} {run.variant} {run.seed}"


def _earlier_runs(path: Path) -> list[Run]:
    """The runs of an earlier lab.json; none where it has another form or names what is no more."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8")).get("runs", [])
        runs = [Run(**row) for row in rows]
    except (OSError, ValueError, TypeError, AttributeError):
        return []
    return [run for run in runs if run.task in TASKS.get(run.world, {}) and run.variant in VARIANTS]


def _json(runs: Sequence[Run], scale: Scale) -> bytes:
    """The summaries, then one line for each run."""
    head = json.dumps({"scale": asdict(scale), "summary": summary_of(runs)}, indent=1).removesuffix("\n}")
    lines = ",\n  ".join(json.dumps(asdict(run)) for run in runs)
    return f'{head},\n "runs": [\n  {lines}\n ]\n}}\n'.encode()
