"""The pairs of the form as HTML: what the doctor says, a card for each pair, and how far a drawing is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib_addift.ui import render
from lib_addift.ui.doctor import Diagnosis, Doctor
from lib_addift.ui.drawing import PairDrawing
from lib_addift.ui.pairs import FormPair, PairList
from lib_addift.ui.render import escape, sentence

_LINES = 2  # findings in a card; the pair in the slots has all of its findings below them


def doctor(pair: FormPair, diagnosis: Diagnosis | None) -> str:
    """What the doctor says of the pair in the slots, with the area where the LoRA learns."""
    if pair.missing:
        missing = "two pictures" if pair.is_empty else f"the {pair.missing[0]}"
        return render.note(f"put in {missing}, and the pair doctor looks at the pair")
    if diagnosis is None or diagnosis.overlay is None:
        return render.error(diagnosis.problem if diagnosis else "")
    return render.doctor(diagnosis.findings, diagnosis.overlay)


def list_key(pairs: PairList, doctor: Doctor, values: Mapping[str, Any]) -> object:
    """A value that changes when `cards` does."""
    return pairs.shown.key, [
        (pair.key, pair.name, pair.caption, pair.is_on, doctor.key(pair, values), doctor.known(pair, values) is None)
        for pair in list(pairs.items)
    ]


def is_listed(pairs: PairList) -> bool:
    """Whether there is a list: not for one pair of the person's own, which stands in the slots."""
    return len(pairs.items) > 1 or pairs.items[0].is_drawn


def cards(pairs: PairList, doctor: Doctor, values: Mapping[str, Any], left: int, notes: Sequence[str]) -> str:
    """A card for each pair; `left`: how many the doctor has not seen, for which the page asks again."""
    about = "".join(render.note(text) for text in notes)
    if not is_listed(pairs):
        return about
    items = list(pairs.items)
    count = sum(pair.is_on and not pair.missing for pair in items)
    rows = "".join(_card(pair, pairs, doctor.known(pair, values)) for pair in items)
    summary = f"{count} of {len(items)} pairs are ticked: the LoRA learns from these."
    busy = ' data-addift-active="1"' if left else ""
    return (
        f'<div{busy}><p class="addift-sum" role="status">{sentence(summary)}</p>{about}'
        f'<ul class="addift-pairs" aria-label="Pairs">{rows}</ul></div>'
    )


def _card(pair: FormPair, pairs: PairList, diagnosis: Diagnosis | None) -> str:
    label, is_shown = escape(pairs.label(pair)), pair is pairs.shown
    css = " addift-chosen" if is_shown else ""
    tick = (
        f'<label class="addift-tick"><input type="checkbox" data-addift-act="pair_tick" data-addift-job="{pair.key}"'
        f"{' checked' if pair.is_on else ''}> <span>{label}</span></label>"
    )
    caption = f'<p class="addift-caption">{escape(pair.caption)}</p>' if pair.caption else ""
    return (
        f'<li class="addift-pair{css}" data-addift-row="{pair.key}" data-addift-on="{int(pair.is_on)}">{tick}'
        f"{render.thumbnail(pair.key, f'Original and target of {pairs.label(pair)}')}{caption}"
        f'{_lines(pair, diagnosis)}<div class="addift-row-acts" role="group" aria-label="What to do with {label}">'
        f"{_button(pair, 'pair_show', 'Shown above' if is_shown else 'Edit', label, is_off=is_shown)}"
        f"{_button(pair, 'pair_swap', 'Swap', label)}{_button(pair, 'pair_remove', 'Remove', label)}</div></li>"
    )


def _lines(pair: FormPair, diagnosis: Diagnosis | None) -> str:
    """What the doctor says of a pair, in short: what is wrong with it, or its best finding."""
    if pair.missing:
        return render.problem(f"the {pair.missing[0]} is missing")
    if diagnosis is None:
        return render.note("the doctor has not looked yet")
    if diagnosis.problem:
        return render.problem(diagnosis.problem)
    told = [found for found in diagnosis.findings if found.level != "ok"][:_LINES] or list(diagnosis.findings[-1:])
    return f'<ul class="addift-warnings">{"".join(render.finding(found) for found in told)}</ul>'


def _button(pair: FormPair, action: str, text: str, label: str, *, is_off: bool = False) -> str:
    return (
        f'<button type="button" data-addift-act="{action}" data-addift-job="{pair.key}" aria-label="{text}: {label}"'
        f"{' disabled' if is_off else ''}>{text}</button>"
    )


def thumbnail_styles(pairs: PairList) -> str:
    """The style sheet with the thumbnails of the cards."""
    pictures = {pair.key: pair.thumbnail for pair in list(pairs.items)} if is_listed(pairs) else {}
    return render.thumbnail_styles({key: picture for key, picture in pictures.items() if picture})


def drawing(drawn: PairDrawing) -> str:
    """How far the drawing of pairs is, how it ended, or why it cannot be."""
    task = drawn.task
    if not task.is_busy:
        status = f'<p class="addift-hint addift-drawn" role="status">{sentence(task.text)}</p>' if task.text else ""
        return f"{status}{render.error(task.error)}"
    share = drawn.done / drawn.total if drawn.total else 0.0
    counted = f"{drawn.done} of {drawn.total}" if drawn.total else ""
    return (
        f'<div data-addift-active="1"><p class="addift-line"><span class="addift-drawn" role="status">'
        f"{sentence(task.text)[:-1]} {counted}</span><span>{render.time_left(drawn.seconds_left)}</span></p>"
        f"{render.share_bar(share, 'Progress of the drawing', counted)}</div>"
    )
