"""Checks before training whether two pictures make a good pair: their shift, their colours and the changed area."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lib_addift.data.mask import WHOLE_SHARE, change_level
from lib_addift.data.pairs import ImagePair
from lib_addift.data.shift import Shift, find_shift

COLOUR_LIMIT = 4.0  # grey levels
TINY_SHARE = 0.003
# What the laboratory's good runs from one painted pair have in common (eyes, mouth, hair, skin): the share of the
# picture that changes, and how much of the change lies in a square of half the picture's sides.
GOOD_SHARES = (0.02, 0.3)
GOOD_CONCENTRATION = 0.6
_FAR_SMALLER = 0.5  # of the model's pictures, in px a side
_TINT = np.array([255.0, 40.0, 90.0])
_OPACITY = 0.5


@dataclass(frozen=True)
class Finding:
    """One sentence about a pair."""

    level: str  # 'ok', 'note' or 'warning'
    text: str


@dataclass(frozen=True)
class PairReport:
    """The measurements of `examine`, and the findings in plain sentences."""

    width: int  # px
    height: int  # px
    shift: tuple[float, float]  # px; the target's content lies so far right of and below the original's
    colour_shift: tuple[float, float, float]  # RGB, grey levels; target less original, away from the change
    changed_share: float  # 0..1
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def examine(pair: ImagePair, picture_side: int | None = None) -> PairReport:
    """Measure how well the two pictures of a pair fit each other.

    `picture_side`: px a side of the pictures that the model was trained on; None where that is not known.
    """
    height, width = pair.original.shape[:2]
    sizes = [_about_size(pair), *_about_smallness((width, height), picture_side)]
    if pair.original is pair.target:
        only = [Finding("ok", f"One picture of {width} x {height} px.")] if sizes[0].level == "ok" else sizes[:1]
        return PairReport(width, height, (0.0, 0.0), (0.0, 0.0, 0.0), 0.0, (*only, *sizes[1:]))
    changed = change_level(pair.original, pair.target) > 0
    share = float(changed.mean())
    # When nearly everything changed, the unchanged rest is too small to compare colours on.
    area = ~changed if share <= WHOLE_SHARE else np.ones_like(changed)
    red, green, blue = (pair.target[area].astype(np.float64) - pair.original[area]).mean(axis=0).tolist()
    shift, colour_shift = find_shift(pair.original, pair.target), (red, green, blue)
    findings = [*sizes, *_about_transparency(pair.transparency), *_about_shift(shift, pair.aligned)]
    findings += [_about_colour(colour_shift), _about_share(share)]
    if all(finding.level == "ok" for finding in findings) and _is_like_good_ones(changed):
        findings.append(Finding("ok", "This is a good pair."))
    return PairReport(width, height, shift, colour_shift, share, tuple(findings))


def mask_overlay(pair: ImagePair) -> Image.Image:
    """The original with a red tint where the LoRA will learn; without a mask that is everywhere."""
    mask = np.ones(pair.original.shape[:2]) if pair.mask is None else pair.mask
    opacity = _OPACITY * mask[..., None]  # (H, W, 1)
    return Image.fromarray((pair.original * (1 - opacity) + _TINT * opacity).round().astype(np.uint8))


def _about_size(pair: ImagePair) -> Finding:
    height, width = pair.original.shape[:2]
    if pair.crop:
        return Finding("note", pair.crop)
    return Finding("ok", f"Both pictures are {width} x {height} px and stay as they are.")


def _about_smallness(size: tuple[int, int], picture_side: int | None) -> list[Finding]:
    if picture_side is None or size[0] * size[1] >= (_FAR_SMALLER * picture_side) ** 2:
        return []
    text = (
        f"{size[0]} x {size[1]} px is far less than the {picture_side} x {picture_side} px that this model draws, and "
        "it knows little of pictures so small: use larger ones."
    )
    return [Finding("note", text)]


def _about_transparency(transparency: str) -> list[Finding]:
    if not transparency:
        return []
    if transparency == "same":
        level, what = "note", "Parts of both pictures are transparent, and count as white."
    else:
        level = "warning"
        what = "One picture is transparent where the other is not; that counts as white, and the LoRA would learn it."
    return [Finding(level, f"{what} Set Mask to alpha (mask = alpha) to learn only where a picture is opaque.")]


def _about_shift(shift: Shift, aligned: Shift) -> list[Finding]:
    findings = []
    if any(aligned):
        text = f"The target was moved {_in_words(aligned)} against the original; it was moved back (align)."
        findings.append(Finding("ok", text))
    if any(shift):
        text = (
            f"The target is moved {_in_words(shift)} against the original, and the LoRA would learn to move things: "
            "unless you want that, tick Align (align = true), which moves it back before it is learnt."
        )
        findings.append(Finding("warning", text))
    return findings or [Finding("ok", "The pictures lie exactly over each other.")]


def _in_words(shift: Shift) -> str:
    """'1 px to the right and 0.5 px up'."""
    return " and ".join(
        f"{abs(pixels):g} px {positive if pixels > 0 else negative}"
        for pixels, positive, negative in ((shift[0], "to the right", "to the left"), (shift[1], "down", "up"))
        if pixels
    )


def _about_colour(colour_shift: tuple[float, float, float]) -> Finding:
    if max(map(abs, colour_shift)) <= COLOUR_LIMIT:
        return Finding("ok", "The colours of the unchanged parts agree.")
    red, green, blue = colour_shift
    return Finding(
        "note",
        f"The whole target has other colours (red {red:+.0f}, green {green:+.0f}, blue {blue:+.0f} of 255), and the "
        "LoRA may learn some of that: unless you want it, match the colours in a picture editor.",
    )


def _about_share(share: float) -> Finding:
    if share > WHOLE_SHARE:
        return Finding(
            "warning",
            f"Almost everything differs ({share:.0%} of the picture): use the preset 'style', or a better pair.",
        )
    if share < TINY_SHARE:
        return Finding(
            "note",
            f"The difference is very small ({share:.2%} of the picture): cut both pictures closer around it.",
        )
    return Finding("ok", f"The pictures differ in {share:.1%} of their area.")


def _is_like_good_ones(changed: np.ndarray) -> bool:
    """Whether a change, (H, W) bool, is as large and as much in one place as those of the laboratory's good runs."""
    if not GOOD_SHARES[0] <= changed.mean() <= GOOD_SHARES[1]:
        return False
    rows, columns = (length // 2 for length in changed.shape)
    sums = np.pad(changed.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    return bool(inside.max() >= GOOD_CONCENTRATION * changed.sum())
