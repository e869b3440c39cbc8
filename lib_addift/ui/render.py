"""Panels as HTML, from plain values. Every text goes through `escape`, every picture becomes a data: URL."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping

from PIL import Image

from lib_addift.data.checks import Finding
from lib_addift.files import png_bytes
from lib_addift.training.estimate import about

_LOSSLESS_PIXELS = 512 * 512  # up to here a picture is sent as PNG; of larger ones that would be some MB
_SIGNS = {"ok": "✓", "note": "i", "warning": "!"}
_LEVEL_NAMES = {"ok": "Good", "note": "Note", "warning": "Warning"}


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
    return f'<img class="addift-{kind}" alt="{escape(alt)}" src="{picture_url(image)}" {data}>'


def picture_url(image: Image.Image) -> str:
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


def share_bar(share: float, label: str, text: str) -> str:
    """A bar; `share` is 0 to 1, `text` says it in words."""
    percent = round(100 * share)
    return (
        f'<div class="addift-bar" role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}" aria-valuetext="{escape(text)}">'
        f'<div style="width:{percent}%"></div></div>'
    )


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
