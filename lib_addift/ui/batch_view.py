"""The sets of a folder as HTML."""

from __future__ import annotations

from lib_addift.sets.find import PairCheck, PairSet
from lib_addift.training.estimate import about
from lib_addift.ui import render
from lib_addift.ui.batch import Batch, Row
from lib_addift.ui.render import escape, sentence

_OPEN_WARNINGS = 2  # of each set; more are folded
_EMPTY = """\
<div class="addift-card"><h3>Many LoRAs from one folder</h3>
<p class="addift-text">Name a folder and press Look: nothing is trained before you have seen what was found in it.</p>
<p class="addift-text">A set is a folder with one pair or several: <code>face.png</code> with
<code>face_target.png</code>, or two folders in it, <code>original</code> and <code>target</code>. A folder of sets
gives one LoRA for each of them, called as the set.</p></div>"""


def hint(*, is_stale: bool) -> str:
    """Which settings the sets are trained with."""
    stale = " Those of 'Pair' have changed since you looked: look again for new times." if is_stale else ""
    return (
        "<p class=\"addift-hint\">All sets are trained with the settings of the tab 'Pair'; what stands in the "
        f"<code>addift.toml</code> of a set goes before them.{stale}</p>"
    )


def thumbnail_styles(batch: Batch) -> str:
    """The style sheet with the thumbnails of the sets on show."""
    pictures = {_key(batch, number): row.thumbnail for number, row in enumerate(batch.rows)}
    return render.thumbnail_styles({key: picture for key, picture in pictures.items() if picture})


def table(batch: Batch) -> str:
    """The sets, one below the other, how many can be trained, and what is being done with them."""
    busy = ' data-addift-active="1"' if batch.task.is_busy else ""
    rows = "".join(_row(row, _key(batch, number)) for number, row in enumerate(batch.rows))
    shown = f'<ul class="addift-rows" aria-label="Sets in the folder">{rows}</ul>' if rows else ""
    welcome = _EMPTY if not rows and not batch.task.is_busy and not batch.task.error else ""
    status = f'<p class="addift-hint addift-batch-text" role="status">{sentence(batch.task.text)}</p>'
    return f"<div{busy}>{welcome}{shown}{_summary(batch)}{status}{render.error(batch.task.error)}</div>"


def _key(batch: Batch, number: int) -> str:
    return f"set{batch.scans}-{number}"


def _row(row: Row, key: str) -> str:
    found, problem = row.planned.set, row.problem
    state = "queued" if row.is_queued else "problem" if problem else "ready"
    label = {"queued": "queued", "problem": "left out", "ready": ""}[state]
    kind = "failed" if state == "problem" else "done"
    badge = f'<span class="addift-badge addift-{kind}">{label}</span>' if label else ""
    seconds = row.planned.seconds
    count = len(found.pairs)
    facts = [f"{count} pair{'' if count == 1 else 's'}" if count else "", about(seconds) if seconds else ""]
    return (
        f'<li class="addift-row" data-addift-set="{escape(found.name)}" data-addift-state="{state}">'
        f"{render.thumbnail(key, f'The first pair of {found.name}')}"
        f'<div class="addift-row-main"><div class="addift-head"><h4>{escape(found.name)}</h4>{badge}</div>'
        f"{_notes(found)}"
        f"{_warnings(row.planned.checks)}{render.problem(problem)}</div>"
        f'<div class="addift-row-facts">{"".join(f"<span>{fact}</span>" for fact in facts if fact)}</div></li>'
    )


def _notes(found: PairSet) -> str:
    lines = "".join(f"<li>{sentence(note)}</li>" for note in found.notes)
    return f'<ul class="addift-notes">{lines}</ul>' if lines else ""


def _warnings(checks: tuple[PairCheck, ...]) -> str:
    """What the pair doctor warns of, with the pair's name where there are several."""
    lines = [
        render.finding(finding, f"{check.name}: " if len(checks) > 1 else "")
        for check in checks
        for finding in check.findings
        if finding.level == "warning"
    ]
    if not lines:
        return ""
    first, rest = "".join(lines[:_OPEN_WARNINGS]), lines[_OPEN_WARNINGS:]
    label = "What the pair doctor warns of"
    folded = f"<details><summary>{len(rest)} more</summary><ul>{''.join(rest)}</ul></details>" if rest else ""
    return f'<div class="addift-warnings"><ul aria-label="{label}">{first}</ul>{folded}</div>'


def _summary(batch: Batch) -> str:
    """'2 of 3 sets can be trained, together in about 4 min.'"""
    if not batch.rows:
        return ""
    trainable = [row for row in batch.rows if not row.problem]
    times = [row.planned.seconds for row in trainable]
    seconds = sum(time for time in times if time)
    together = f", together in {about(seconds)}" if trainable and all(times) else ""
    count = f"{len(trainable)} of {len(batch.rows)} sets" if len(batch.rows) > 1 else f"{len(trainable)} of 1 set"
    return f'<p class="addift-sum">{sentence(f"{count} can be trained{together}")}</p>'
