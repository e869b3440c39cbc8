"""The tab 'Queue' as HTML: all jobs, one below the other.

What changes with every training step (`progress_updates`) and the thumbnails are sent apart from the list, which is
replaced only when the `row_key` of a job changes: otherwise its buttons would be replaced while a person presses them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from lib_addift.jobs.queue import Job, JobState
from lib_addift.ui.job_view import STATE_LABELS, bar, left, status_text, steps
from lib_addift.ui.pace import pace
from lib_addift.ui.render import escape, problem, sentence, thumbnail

_MAX_ENDED = 100  # jobs on show that have ended
_EMPTY = """\
<div class="addift-card"><h3>Nothing was trained yet</h3>
<p class="addift-text">What you start in 'Pair' or 'Batch' waits here for its turn, and stays when the program ends.</p>
</div>"""


def display_order(jobs: Sequence[Job], waiting: Sequence[Job]) -> list[Job]:
    """Jobs that run, then those that wait with the next one first, then those that have ended with the latest first."""
    running = [job for job in jobs if job.is_running]
    ended = sorted((job for job in jobs if job.has_ended), key=lambda job: job.finished or 0.0, reverse=True)
    return [*running, *(job for job in waiting if job.is_queued), *ended[:_MAX_ENDED]]


def row_key(job: Job) -> object:
    """A value that changes when the job's row does, apart from what `progress_updates` brings."""
    text = "" if job.is_running else job.text
    return job.id, job.state, text, job.error, job.problem, job.is_stopping, job.saving, len(job.log), job.log[-1:]


def summary(rows: Sequence[Job], hidden: int, *, is_paused: bool) -> str:
    """'1 training, 3 waiting, 2 done.'"""
    counts = {word: sum(job.state is state for job in rows) for state, word in STATE_LABELS.items()}
    order = ("training", "waiting", "done", "stopped", "failed")
    text = ", ".join(f"{counts[word]} {word}" for word in order if counts[word])
    older = f" {hidden} older ones are not shown." if hidden else ""
    paused = " The queue is paused: what waits begins after 'Go on'." if is_paused else ""
    return f'<p class="addift-sum" role="status">{sentence(text)}{older}{paused}</p>' if rows or is_paused else ""


def table(rows: Sequence[Job], hidden: int, *, is_paused: bool, notice: str = "") -> str:
    """All jobs, below a `notice`. While one is active, the attribute `data-addift-active` makes the page ask again."""
    waiting = [job for job in rows if job.is_queued]
    lines = "".join(_row(job, waiting) for job in rows)
    shown = f'<ul class="addift-rows" aria-label="Trainings">{lines}</ul>' if rows else _EMPTY
    is_active = any(job.is_active for job in rows)
    head = problem(notice) + summary(rows, hidden, is_paused=is_paused)
    return f'<div data-addift-active="{int(is_active)}">{head}{shown}</div>'


def progress_updates(jobs: Sequence[Job]) -> str:
    """The progress of jobs that run, as data attributes; the script writes them into the rows."""
    return "".join(
        f'<span data-addift-news="{job.id}" data-percent="{round(100 * at.share)}" '
        f'data-steps="{sentence(steps(job))[:-1]}" data-left="{left(job, at)}" '
        f'data-text="{sentence(_text(job))}"></span>'
        for job, at in ((job, pace(job)) for job in jobs)
    )


def _text(job: Job) -> str:
    """What a job does, or how it ended: of a done one its verdict."""
    return job.text if job.state is JobState.DONE and not job.saving else status_text(job)


def _row(job: Job, waiting: Sequence[Job]) -> str:
    name = escape(job.name)
    word = "stopping" if job.is_running and job.is_stopping else STATE_LABELS[job.state]
    return (
        f'<li class="addift-row" data-addift-row="{job.id}" data-addift-state="{job.state.value}">'
        f"{thumbnail(job.id, f'The first pair of {job.name}')}"
        f'<div class="addift-row-main"><div class="addift-head"><h4>{name}</h4>'
        f'<span class="addift-badge addift-{job.state.value}">{word}</span></div>{_progress(job)}'
        f'<p class="addift-text">{"" if job.error else sentence(_text(job))}</p>{problem(job.error)}</div>'
        f'<div class="addift-row-acts" role="group" aria-label="What to do with {name}">{_buttons(job, waiting)}</div>'
        f"{_log(job)}</li>"
    )


def _progress(job: Job) -> str:
    """The bar, unless the job is done or has not begun; the step; the time left."""
    is_begun, at = job.is_running or job.step > 0, pace(job)
    shown = bar(job, at) if is_begun and job.state is not JobState.DONE else ""
    pairs = f"<span>{len(job.request.pairs)} pairs</span>" if len(job.request.pairs) > 1 else ""
    step = f'<span class="addift-step">{sentence(steps(job))[:-1]}</span>' if is_begun else ""
    time = f'<span class="addift-left">{left(job, at)}</span>'
    return f'{shown}<p class="addift-line">{step}{pairs}{time}</p>'


def fits_the_form(job: Job) -> bool:
    """Whether the form can be filled with a job's request: it has room for pairs, not for single pictures."""
    return not any(pair.is_single for pair in job.request.pairs)


def _buttons(job: Job, waiting: Sequence[Job]) -> str:
    """What can be done with a job now."""
    buttons = []
    if job.problem and job.is_queued:
        buttons.append(_button(job, "fresh", "↻ Retry", "Train it with the settings that this version has"))
    elif job.is_queued:
        buttons += [
            _button(job, "up", "↑", "Begin sooner", is_off=job is waiting[0]),
            _button(job, "down", "↓", "Begin later", is_off=job is waiting[-1]),
            _button(job, "cancel", "Cancel", "Take it out of the queue"),
        ]
    elif job.is_running:
        buttons.append(_button(job, "stop", "Stop", "End it after the current step", is_off=job.is_stopping))
    elif job.state is not JobState.DONE:
        goes_on = job.step > 0 and job.files.has_resume_state
        text, title = ("▶ Go on", "Go on where it stood") if goes_on else ("↻ Retry", "Train it once more")
        buttons.append(_button(job, "retry", text, title))
        if goes_on:
            buttons.append(_button(job, "fresh", "↻ From the start", "Train it once more from the first step"))
    buttons.append(_button(job, "show", "→ Show", "Open its progress and its result in the tab Pair"))
    if job.has_ended and fits_the_form(job):
        buttons.append(_button(job, "repeat", "✎ Fill the form", "Put its pictures and settings into the tab Pair"))
    if not job.is_active or (job.problem and job.is_queued):
        buttons.append(_button(job, "remove", "✕ Remove", "Forget it; LoRAs that it has saved stay"))
    return "".join(buttons)


def _button(job: Job, action: str, text: str, title: str, *, is_off: bool = False) -> str:
    """A button; a sign before its text, or instead of one, is for the eye only."""
    label = text.lstrip("↻▶→✎✕↑↓ ") or title
    main = ' class="addift-main"' if action == "retry" else ""
    return (
        f'<button type="button" data-addift-act="{action}" data-addift-job="{job.id}" title="{title}." '
        f'aria-label="{label}: {escape(job.name)}"{main}{" disabled" if is_off else ""}>{text}</button>'
    )


def _log(job: Job) -> str:
    lines = "".join(
        f"<li><time>{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))}</time> {sentence(text)}</li>"
        for when, text in list(job.log)
    )
    return (
        f'<details class="addift-log" data-addift-log="{job.id}"><summary aria-label="Log of {escape(job.name)}">Log'
        f'</summary><ol tabindex="0" aria-label="Log of {escape(job.name)}">{lines}</ol></details>'
    )
