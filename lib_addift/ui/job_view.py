"""A training as HTML: how it stands, and how it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from lib_addift.jobs.queue import Job, JobState
from lib_addift.ui.curve import curve
from lib_addift.ui.pace import Pace, pace
from lib_addift.ui.render import error, escape, note, sentence, share_bar, time_left

_GROWN, _AT_FIRST = 100.0, 5  # so many times the first steps' loss is worth a remark
STATE_LABELS = {
    JobState.QUEUED: "waiting",
    JobState.RUNNING: "training",
    JobState.DONE: "done",
    JobState.STOPPED: "stopped",
    JobState.FAILED: "failed",
}
WELCOME = """\
<div class="addift-card addift-welcome" data-addift-state="none">
<h3>From two pictures to a LoRA</h3>
<ol>
<li><b>Two pictures.</b> They show the same and differ in one thing: eyes open, eyes closed.
Best: generate one and inpaint the other from it. Or let the model draw pairs, from two prompts.</li>
<li><b>A name.</b> It is what you will type in prompts.</li>
<li><b>Train.</b> Here you then see how it goes, and at the end how it does on new pictures.</li>
</ol>
</div>"""


def labels(jobs: Sequence[Job]) -> dict[str, str]:
    """What each job is called in a list, by its id: name, time and state, and no two alike."""
    found: dict[str, str] = {}
    for job in jobs:
        label = f"{job.name}, {_clock(job.created)}, {STATE_LABELS[job.state]}"
        count = sum(other == label or other.startswith(f"{label} (") for other in found.values())
        found[job.id] = f"{label} ({count + 1})" if count else label
    return found


def _clock(when: float) -> str:
    """'21:53:04', with the date where that is not today's."""
    day, today = (time.strftime("%Y-%m-%d", time.localtime(each)) for each in (when, time.time()))
    clock = time.strftime("%H:%M:%S", time.localtime(when))
    return clock if day == today else f"{day} {clock}"


def bar(job: Job, at: Pace) -> str:
    """The share of a job's work that is done."""
    return share_bar(at.share, f"Progress of {job.name}", steps(job))


def steps(job: Job) -> str:
    """'step 3 of 40'."""
    return f"step {job.step} of {job.total}"


def left(job: Job, at: Pace) -> str:
    """'about 12 s left', or that it is nearly done."""
    is_over = job.is_running and at.seconds_left is not None and at.seconds_left < 0.5
    return "nearly done" if is_over else time_left(at.seconds_left)


def progress(job: Job | None, other: Job | None) -> str:
    """How a job stands; `other` is a job that runs meanwhile."""
    if job is None:
        return WELCOME
    is_active, at = job.is_active or other is not None, pace(job)
    lines = [
        f'<div class="addift-card" data-addift-state="{job.state.value}" data-addift-active="{int(is_active)}">',
        f'<div class="addift-head"><h3>{escape(job.name)}</h3>'
        f'<span class="addift-badge addift-{job.state.value}">{STATE_LABELS[job.state]}</span></div>',
        bar(job, at),
        f'<div class="addift-line"><span class="addift-step">{sentence(steps(job))[:-1]}</span>'
        f'<span class="addift-left">{left(job, at)}</span></div>',
        f'<p class="addift-text">{sentence(status_text(job))}</p>',
        error(job.error),
        curve(job.losses, job.total),
        loss_remark(job.losses),
        f'<p class="addift-hint">{escape(other.name)} is being trained meanwhile.</p>' if other else "",
        "</div>",
    ]
    return "".join(lines)


def loss_remark(losses: Sequence[float]) -> str:
    """A remark on a loss that has grown a hundredfold; nothing for any other."""
    known = [loss for loss in list(losses) if math.isfinite(loss)]
    if len(known) < 2 * _AT_FIRST:
        return ""
    first, last = (sum(part) / _AT_FIRST for part in (known[:_AT_FIRST], known[-_AT_FIRST:]))
    if first <= 0 or last < _GROWN * first:
        return ""
    return note(
        f"The loss is {last / first:.0f} times what it was at first: the LoRA learns too fast and may draw nothing of "
        "use. Stop, and train again with a lower learning rate"
    )


def status_text(job: Job) -> str:
    """What a job does, or how it ended."""
    if job.state is JobState.FAILED:
        return "This training failed"
    if job.state is JobState.DONE:
        return "saving a kept step" if job.saving else "finished: the LoRA is saved"
    return job.text


def announcement(job: Job | None) -> str:
    """The status for screen readers, which read it aloud: a sentence that changes at every quarter of the steps."""
    if job is None:
        return ""
    if job.state is JobState.RUNNING and job.text == "training":
        quarter = int(4 * job.progress) * 25
        return f"Training {escape(job.name)}: {quarter} percent done."
    return f"{escape(job.name)}: {sentence(job.error or job.text)}"
