"""Writes the laboratory's report: lab.md, lab.json and the plots. A hand-written part of lab.md is kept."""

from __future__ import annotations

import json
from pathlib import Path

from lib_addift.experiments.lab.bench import Scale
from lib_addift.experiments.lab.plots import plots
from lib_addift.experiments.lab.summary import Summary, couples_table, markdown_table, overall_table, task_table
from lib_addift.experiments.lab.tasks import TASKS
from lib_addift.experiments.lab.variants import VARIANTS
from lib_addift.files import replace_files

BEGIN, END = "<!-- reading: begin (written by hand; the command keeps it) -->", "<!-- reading: end -->"
_MEASURES = (
    ("without LoRA, at 1, at -1", "share of new faces that show the value, from prompts that do not mention it"),
    ("flips", "share of faces in which any other attribute is read differently at weight 1 than without the LoRA"),
    ("flips at 2", "the same at weight 2: how far the weight can be pushed"),
    ("interference", "mean change outside of the attribute's area at weight 1, in grey levels of 0 to 255"),
    ("monotone", "share of steps between the weights -1, 0, 0.5, 1, 1.5 and 2 in which the effect does not fall"),
    ("linear", "R squared of the straight line through the mean effect at these weights"),
    ("recovery", "share of the pair's difference that the file reproduces in the round trip at its best weight"),
    ("contrast", "step of colour between what is learnt and its surroundings, 4 px apart, as a share of the target's "
                 "through the VAE; of faces that show it with the LoRA and not without"),
    ("sharpness", "the same between neighbours across its edge; less than the contrast: softer than the target"),
    ("steps, seconds to 90 %", "when a kept LoRA of the run first reached 90 % at weight 1; seconds of one core, "
                               "without loading the model; each kept LoRA was calibrated where the method does that"),
)  # fmt: skip


def write_report(summary: Summary, scale: Scale, folder: Path) -> Path:
    """Write all files to `folder`; returns the path of lab.md. Raises OSError."""
    page = folder / "lab.md"
    kept = page.read_text(encoding="utf-8") if page.exists() else ""
    pictures = {folder / "lab" / name: data for name, data in plots(summary).items()}
    (folder / "lab").mkdir(parents=True, exist_ok=True)
    contents = {
        **pictures,
        folder / "lab.json": (json.dumps(_figures(summary, scale), indent=1) + "\n").encode(),
        page: page_text(summary, scale, [path.name for path in pictures], reading(kept)).encode(),
    }
    replace_files(contents, durable=False)
    return page


def reading(page: str) -> str:
    """The hand-written part of an earlier page, between BEGIN and END; '' without one."""
    if BEGIN not in page or END not in page:
        return ""
    return page.split(BEGIN, 1)[1].split(END, 1)[0].strip()


def page_text(summary: Summary, scale: Scale, pictures: list[str], kept: str) -> str:
    """The text of lab.md."""
    parts = [
        "# The laboratory",
        f"Methods compared on the tiny world ([world.md](world.md)): {_count(len(summary.cells), 'task')}, "
        f"{_count(len(summary.variants), 'method')}, {_count(len(summary.seeds), 'seed')}, {scale.faces} new faces "
        f"each ({scale.sampling_steps} DDIM steps, guidance 4). ± is the standard deviation over seeds; a seed has its "
        "own noise, faces and shades of the pair's colours. Written by `python -m lib_addift lab --docs docs`; the "
        "figures are in [lab.json](lab.json).",
        f"{BEGIN}\n\n{kept}\n\n{END}",
        "## All tasks",
        "Means over the tasks; steps and seconds are medians of the runs that got there. Bold, below: the best of the "
        "methods that learn the task.",
        overall_table(summary),
        *(f"![{Path(name).stem}](lab/{name})" for name in pictures),
    ]
    for task in summary.cells:
        known = TASKS[task]
        parts += [f"## {task}: {known.value} ({known.kind}; preset {known.preset})", task_table(summary, task)]
    if summary.couples:
        parts += ["## Two LoRAs at once, each at weight 1", couples_table(summary)]
    parts += ["## Measures", markdown_table(["measure", "what it is"], _MEASURES), "## Methods", _methods(summary)]
    if summary.errors:
        parts += ["## Without a result", markdown_table(["run", "why"], sorted(summary.errors.items()))]
    return "\n\n".join(parts) + "\n"


def _methods(summary: Summary) -> str:
    rows = []
    for name in summary.variants:
        variant = VARIANTS[name]
        settings = ", ".join(f"{key} = {_short(value)}" for key, value in variant.settings.items())
        for kind, more in variant.kinds.items():
            settings += f"; {kind}: " + ", ".join(f"{key} = {_short(value)}" for key, value in more.items())
        if variant.swapped:
            settings += f"; {', '.join(variant.swapped)}: the pictures change places"
        if variant.pairs > 1:
            settings += f"; {variant.pairs} pairs"
        rows.append([name, variant.words, settings.strip(", ;") or "none"])
    return markdown_table(["method", "what it is", "settings beside the task's preset"], rows)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}"


def _short(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _figures(summary: Summary, scale: Scale) -> dict[str, object]:
    return {"scale": vars(scale), "seeds": sorted(summary.seeds), **summary.to_dict()}
