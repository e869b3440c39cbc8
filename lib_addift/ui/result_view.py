"""The finished LoRA as HTML: what was measured, the new pictures to compare, the strip, and the test."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from lib_addift.evaluation.new_pictures import shown_cells
from lib_addift.evaluation.preview import WEIGHTS
from lib_addift.evaluation.verdict import Level
from lib_addift.jobs.files import KeptResult
from lib_addift.ui.render import error, escape, picture, sentence
from lib_addift.ui.sheets import Sheet, sheet_of

_SHOWN_AT = ("-1", "0", "1")
_WITHOUT = 1  # the column of a new picture without the LoRA
_STRIP_WEIGHTS = ", ".join(f"{weight:g}" for weight in WEIGHTS)
_RESULT_TEXTS = {
    Level.GOOD: "in a prompt draws the change you showed; with -1 its opposite.",
    Level.WEAK: "in a prompt draws a part of the change you showed; with -1 its opposite.",
    Level.FAILED: "is saved all the same, but can do little.",
    Level.UNMEASURED: "in a prompt draws what it has learnt; how well was not measured.",
}
_ABOUT_NEW = (
    '<p class="addift-hint">New pictures, each from one noise at weights -1, 0 and 1, drawn quickly; a preview prompt '
    "makes them more like yours. Drag across a picture to see it without the LoRA.</p>"
)
_ABOUT_TRIP = (
    '<p class="addift-hint">Each picture is noised and denoised again. Without the LoRA it should come back as it was; '
    "at weight 1 the original should come back as the target, and at -1 the target as the original.</p>"
)


def result(found: KeptResult, others: Sequence[KeptResult], *, is_previous: bool, made: str) -> str:
    """What the LoRA does. `is_previous`: Train was refused since, so it is not what the form asks for.

    `made` is another text for every file that was written, also where it has taken another's place.
    """
    title = f'<p class="addift-previous-title">Previous: {escape(found.path.stem)}</p>' if is_previous else ""
    parts = [
        f'<div class="addift-card addift-result{" addift-previous" if is_previous else ""}" '
        f'data-addift-tag="{escape(found.tag)}" data-addift-made="{escape(made)}">{title}',
        f'<p class="addift-verdict addift-{found.level.value}">{sentence(found.verdict)}</p>',
        f'<p class="addift-tag"><code>{escape(found.tag)}</code> {_RESULT_TEXTS[found.level]}</p>',
        f'<dl class="addift-figures">{_figures(found)}</dl>',
        _new_pictures(found),
        _round_trip(found),
        f'<p class="addift-path">{escape(found.path)}</p>',
    ]
    if others:
        parts.append(f'<p class="addift-hint">Also saved: {", ".join(escape(r.path.stem) for r in others)}.</p>')
    return "".join([*parts, "</div>"])


def _figures(found: KeptResult) -> str:
    """The figures, each with its name below it."""
    new, trip = found.new_pictures, found.round_trip
    figures = [
        (f"{new.reach} of {new.count}", "new pictures show the change", new.count),
        (f"{new.spread} of {new.count}", "change elsewhere too", new.count),
        (f"{trip.recovery:.0%}", "of the pair's difference comes back", trip.is_measured),
        (f"{found.train_seconds:.0f} s", f"for {found.steps} steps", True),
        (f"{new.seconds:.0f} s", "for the new pictures", new.count),
        (f"{found.weight:.2g}", "times the LoRA as trained is weight 1", True),
    ]
    return "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for text, name, is_known in figures if is_known)


def _new_pictures(found: KeptResult) -> str:
    """The new pictures in a grid, each at -1, 0 and 1; over those with the LoRA the one without it can be drawn."""
    image, cells = found.grid, shown_cells(found.new_pictures.count)
    if image is None:
        return ""
    sheet = sheet_of(image, cells, 2 * len(_SHOWN_AT))
    pictures = "".join(_new_picture(sheet, number) for number in range(cells // len(_SHOWN_AT)))
    return (
        '<div class="addift-new" role="group" aria-label="New pictures" '
        f'style="{sheet.style}">{pictures}</div>{_ABOUT_NEW}'
    )


def _new_picture(sheet: Sheet, number: int) -> str:
    """One new picture at all three weights."""
    row, first = divmod(number * len(_SHOWN_AT), 2 * len(_SHOWN_AT))
    cells = "".join(_at_weight(sheet, (row, first), column, number) for column in range(len(_SHOWN_AT)))
    return f'<div class="addift-trio">{cells}</div>'


def _at_weight(sheet: Sheet, place: tuple[int, int], column: int, number: int) -> str:
    row, first = place
    alt = f"New picture {number + 1} at weight {_SHOWN_AT[column]}"
    shown = sheet.cell(row, first + column, alt)
    if column != _WITHOUT:
        shown += sheet.cell(row, first + _WITHOUT, "", "addift-without")
        shown += (
            f'<input type="range" min="0" max="100" value="0" data-addift-wipe="1" '
            f'aria-label="{alt}: how much of it is shown without the LoRA, in percent">'
        )
    return f'<div><div class="addift-compare">{shown}</div><span aria-hidden="true">{_SHOWN_AT[column]}</span></div>'


def _round_trip(found: KeptResult) -> str:
    alt = "Round trip: the original, noised and denoised without the LoRA and at weight 1; the target the same at -1"
    return (
        "<details><summary>The round trip of its own pair</summary>"
        '<figure class="addift-wide" tabindex="0" role="group" aria-label="The round trip">'
        f"{picture(found.pictures, alt, 'pictures')}</figure>{_ABOUT_TRIP}</details>"
    )


def strip(image: Image.Image, step: int, total: int, *, is_saved: bool) -> str:
    """The preview strip of a step: one picture, with a slider for the weights at which it was drawn."""
    sheet, last = Sheet(image, len(WEIGHTS)), len(WEIGHTS) - 1
    alt = f"Preview after step {step}: the same picture with the LoRA at weights {_STRIP_WEIGHTS}"
    weights = (
        "as it was saved" if is_saved else "at the weight it has so far; what is measured at the end may change it"
    )
    ticks = "".join(f"<span>{weight:g}</span>" for weight in WEIGHTS)
    return (
        f'<div class="addift-walk" style="--place:{last};--count:{len(WEIGHTS)};--ratio:{sheet.width}/{sheet.height}">'
        f'<div class="addift-window">{picture(image, alt, "strip-img", f"data-addift-step={step}")}</div>'
        f'<label class="addift-weight"><span>Weight</span><input type="range" min="0" max="{last}" step="1" '
        f'value="{last}" data-addift-walk="{" ".join(f"{weight:g}" for weight in WEIGHTS)}" '
        f'aria-valuetext="{WEIGHTS[-1]:g}"></label><div class="addift-ticks" aria-hidden="true">{ticks}</div></div>'
        f'<p class="addift-hint">One picture at each weight, after step {step} of {total}, {weights}.</p>'
    )


def grid(image: Image.Image | None, text: str, failure: str, *, is_running: bool) -> str:
    """The test: its pictures so far, its status, and why it failed."""
    shown = picture(image, "One seed with the LoRA at each labelled weight", "grid") if image else ""
    figure = (
        f'<figure class="addift-wide" tabindex="0" role="group" aria-label="Test">{shown}</figure>' if image else ""
    )
    busy = ' data-addift-active="1"' if is_running else ""
    return f'<div{busy}>{figure}<p class="addift-hint" role="status">{sentence(text)}</p>{error(failure)}</div>'
