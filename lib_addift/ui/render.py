"""Panels as HTML, from plain values. Every text goes through `escape`, every picture becomes a data: URL."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

from lib_addift.data.checks import Finding
from lib_addift.evaluation.preview import WEIGHTS
from lib_addift.evaluation.verdict import Level
from lib_addift.files import png_bytes
from lib_addift.jobs.files import KeptResult
from lib_addift.jobs.queue import Job, JobState
from lib_addift.training.estimate import about
from lib_addift.ui.curve import curve

_STRIP_WEIGHTS = ", ".join(f"{weight:g}" for weight in WEIGHTS)
_LOSSLESS_PIXELS = 512 * 512  # up to here a picture is sent as PNG; of larger ones that would be some MB
_SIGNS = {"ok": "✓", "note": "i", "warning": "!"}
_LEVEL_NAMES = {"ok": "Good", "note": "Note", "warning": "Warning"}
STATE_LABELS = {
    JobState.QUEUED: "waiting",
    JobState.RUNNING: "training",
    JobState.DONE: "done",
    JobState.STOPPED: "stopped",
    JobState.FAILED: "failed",
}
_RESULT_TEXTS = {
    Level.GOOD: "in a prompt draws the change you showed; with -1 its opposite.",
    Level.WEAK: "in a prompt draws a part of the change you showed; with -1 its opposite.",
    Level.FAILED: "is saved all the same, but can do little.",
    Level.UNMEASURED: "in a prompt draws what the pictures show.",
}
WELCOME = """\
<div class="addift-card addift-welcome" data-addift-state="none">
<h3>From two pictures to a LoRA</h3>
<ol>
<li><b>Two pictures.</b> They show the same and differ in one thing: eyes open, eyes closed.
Best: generate one and inpaint the other from it.</li>
<li><b>A name.</b> It is what you will type in prompts.</li>
<li><b>Train.</b> Here you then see how it goes, and at the end how it does on new pictures.</li>
</ol>
</div>"""


def escape(text: object) -> str:
    """Text without any meaning in HTML, nor in the templates as which gradio 6 reads HTML."""
    result = html.escape(str(text))
    for character in "{}$@":
        result = result.replace(character, f"&#{ord(character)};")
    return result


def sentence(text: object) -> str:
    """`text` beginning with a capital and ending with a full stop, as HTML."""
    words = str(text).strip()
    first, _space, rest = words.partition(" ")
    if first.rstrip(",:").isalpha() and not rest.startswith("="):  # a setting's name stays as it is
        words = words[0].upper() + words[1:]
    return escape(words if words.endswith((".", "!", "?")) else f"{words}.") if words else ""


def error(text: str) -> str:
    """A sentence about what went wrong, which screen readers read at once; nothing for no text."""
    return f'<div class="addift-error" role="alert">{sentence(text)}</div>' if text else ""


def problem(text: str) -> str:
    """The same as a part of a list, which screen readers do not read at once."""
    return f'<p class="addift-error">{sentence(text)}</p>' if text else ""


def note(text: str) -> str:
    """A sentence in small print; nothing for no text."""
    return f'<div class="addift-hint">{sentence(text)}</div>' if text else ""


def picture(image: Image.Image, alt: str, kind: str, data: str = "") -> str:
    """An <img> with the class addift-`kind`; `data` is one more attribute, made of plain figures."""
    return f'<img class="addift-{kind}" alt="{escape(alt)}" src="{_picture_url(image)}" {data}>'


def _picture_url(image: Image.Image) -> str:
    if image.width * image.height <= _LOSSLESS_PIXELS:
        return _data_url(png_bytes(image), "png")
    return _data_url(_jpeg_bytes(image, quality=90), "jpeg")


def _jpeg_bytes(image: Image.Image, *, quality: int) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality)
    return file.getvalue()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def doctor(findings: Iterable[Finding], overlay: Image.Image) -> str:
    """What the pair doctor found, and where the LoRA will learn."""
    lines = "".join(finding(each) for each in findings)
    area = picture(overlay, "The original with a red tint where the LoRA will learn", "overlay")
    return (
        f'<div class="addift-doctor"><figure>{area}<figcaption>Red: where it learns</figcaption></figure>'
        f'<ul aria-label="What the pair doctor found">{lines}</ul></div>'
    )


def finding(found: Finding, prefix: str = "") -> str:
    """One finding of the pair doctor as a list item."""
    sign = f'<span class="addift-sign" role="img" aria-label="{_LEVEL_NAMES[found.level]}">{_SIGNS[found.level]}</span>'
    text = f"<span>{escape(prefix)}{sentence(found.text)}</span>"
    return f'<li class="addift-finding addift-{found.level}">{sign}{text}</li>'


def time_left(seconds: float | None) -> str:
    """'about 12 s left'; nothing when it is not known."""
    return "" if seconds is None else f"{about(seconds)} left"


def bar(job: Job) -> str:
    """The share of a job's steps that is done."""
    percent = round(100 * job.progress)
    return (
        f'<div class="addift-bar" role="progressbar" aria-label="Progress of {escape(job.name)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}" aria-valuetext="{steps(job)}">'
        f'<div style="width:{percent}%"></div></div>'
    )


def steps(job: Job) -> str:
    """'step 3 of 40'."""
    return f"step {job.step} of {job.total}"


def thumbnail_styles(pictures: Mapping[str, Image.Image]) -> str:
    """A style sheet with pictures by key. It is sent once; HTML that is sent often refers to it with `thumbnail`."""
    urls = {key: _thumbnail_url(picture) for key, picture in pictures.items()}
    rules = (f'#addift_root [data-addift-face="{key}"]{{background-image:url({url})}}' for key, url in urls.items())
    return f"<style>{''.join(rules)}</style>"


def thumbnail(key: str, alt: str) -> str:
    """The box in which the picture with this key in `thumbnail_styles` is shown."""
    return f'<div class="addift-face" role="img" aria-label="{escape(alt)}" data-addift-face="{key}"></div>'


def _thumbnail_url(image: Image.Image) -> str:
    return _data_url(_jpeg_bytes(image, quality=80), "jpeg")


def progress(job: Job | None, other: Job | None) -> str:
    """How a job stands; `other` is a job that runs meanwhile."""
    if job is None:
        return WELCOME
    is_active = job.is_active or other is not None
    lines = [
        f'<div class="addift-card" data-addift-state="{job.state.value}" data-addift-active="{int(is_active)}">',
        f'<div class="addift-head"><h3>{escape(job.name)}</h3>'
        f'<span class="addift-badge addift-{job.state.value}">{STATE_LABELS[job.state]}</span></div>',
        bar(job),
        f'<div class="addift-line"><span class="addift-step">{sentence(steps(job))[:-1]}</span>'
        f'<span class="addift-left">{time_left(job.seconds_left)}</span></div>',
        f'<p class="addift-text">{sentence(status_text(job))}</p>',
        error(job.error),
        curve(job.losses, job.total),
        f'<p class="addift-hint">{escape(other.name)} is being trained meanwhile.</p>' if other else "",
        "</div>",
    ]
    return "".join(lines)


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


def strip(image: Image.Image, step: int, total: int) -> str:
    """The preview strip of a kept step."""
    alt = f"Preview after step {step}: the same picture with the LoRA at weights {_STRIP_WEIGHTS}"
    weights = "as it was saved" if step == total else "at its weights in training; at the end, calibration scales them"
    return (
        f'<figure class="addift-wide" tabindex="0" role="group" aria-label="Preview strip of step {step}">'
        f"{picture(image, alt, 'strip-img', f'data-addift-step={step}')}</figure>"
        f'<p class="addift-hint">After step {step} of {total}, {weights}.</p>'
    )


def result(found: KeptResult, others: Sequence[KeptResult]) -> str:
    """The finished LoRA: the verdict, what it means, the strip and the round trip."""
    parts = [
        f'<div class="addift-card addift-result" data-addift-tag="{escape(found.tag)}">',
        f'<p class="addift-verdict addift-{found.level.value}">{sentence(found.verdict)}</p>',
        f'<p class="addift-tag"><code>{escape(found.tag)}</code> {_RESULT_TEXTS[found.level]}</p>',
        '<figure class="addift-wide" tabindex="0" role="group" aria-label="Strip of the finished LoRA">',
        picture(found.strip, f"One picture with the finished LoRA at weights {_STRIP_WEIGHTS}", "final-strip"),
        "</figure>",
        _new_pictures(found),
        _round_trip(found),
        f'<dl class="addift-figures">{_figures(found)}</dl>',
        f'<p class="addift-path">{escape(found.path)}</p>',
    ]
    if others:
        parts.append(f'<p class="addift-hint">Also saved: {", ".join(escape(r.path.stem) for r in others)}.</p>')
    return "".join([*parts, "</div>"])


def _new_pictures(found: KeptResult) -> str:
    image = found.grid
    if image is None:
        return ""
    return (
        '<figure class="addift-wide" tabindex="0" role="group" aria-label="New pictures">'
        f"{picture(image, 'New pictures, each with the LoRA at weights -1, 0 and 1', 'new-pictures')}</figure>"
        '<p class="addift-hint">New pictures, each from one noise at weights -1, 0 and 1, drawn quickly and without '
        "guidance: half of them from a prompt, half from none.</p>"
    )


def _round_trip(found: KeptResult) -> str:
    alt = "Round trip: the original, noised and denoised without the LoRA and at weight 1; the target the same at -1"
    return (
        '<figure class="addift-wide" tabindex="0" role="group" aria-label="The round trip">'
        f"{picture(found.pictures, alt, 'pictures')}</figure>"
        '<p class="addift-hint">The round trip: each picture is noised and denoised again. Without the LoRA it should '
        "come back as it was; at weight 1 the original should come back as the target, and at -1 the target as the "
        "original.</p>"
    )


def _figures(found: KeptResult) -> str:
    new = found.new_pictures
    rows = {
        "New pictures": f"{new.reach} of {new.count} with the change, {new.spread} with others, in {new.seconds:.1f} s",
        "Recovery": f"{found.round_trip.recovery:.0%} of the difference of this pair comes back in the round trip",
        "Weight 1": f"{found.weight:.2g} times the LoRA as trained",
        "Training": f"{found.steps} steps in {found.train_seconds:.0f} s",
    }
    if not found.round_trip.is_measured:
        del rows["Recovery"]
    if not new.count:
        del rows["New pictures"]
    return "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in rows.items())


def grid(image: Image.Image | None, text: str, failure: str, *, is_running: bool) -> str:
    """The test: its pictures so far, its status, and why it failed."""
    shown = picture(image, "One seed with the LoRA at each labelled weight", "grid") if image else ""
    figure = (
        f'<figure class="addift-wide" tabindex="0" role="group" aria-label="Test">{shown}</figure>' if image else ""
    )
    busy = ' data-addift-active="1"' if is_running else ""
    return f'<div{busy}>{figure}<p class="addift-hint" role="status">{sentence(text)}</p>{error(failure)}</div>'
