"""Checks before training whether two pictures make a good pair: their shift, their colours and the changed area."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lib_addift.data.mask import WHOLE_SHARE, change_level
from lib_addift.data.pairs import ImagePair

SHIFT_LIMIT = 2.0  # px
COLOUR_LIMIT = 4.0  # grey levels
TINY_SHARE = 0.003
_LARGE = 32.0  # grey levels; larger differences are clipped, so that the change itself does not dominate
_BETTER = 0.7  # a shift that leaves less than this share of the difference explains it
_PEAKS = 16  # peaks of the correlation that are tried on the pictures
_SAMPLES = 256  # pixels a side that are compared; more do not measure a shift better
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


def examine(pair: ImagePair) -> PairReport:
    """Measure how well the two pictures of a pair fit each other."""
    height, width = pair.original.shape[:2]
    if pair.original is pair.target:
        only = Finding("note", pair.crop) if pair.crop else Finding("ok", f"One picture of {width} x {height} px.")
        return PairReport(width, height, (0.0, 0.0), (0.0, 0.0, 0.0), 0.0, (only,))
    changed = change_level(pair.original, pair.target) > 0
    share = float(changed.mean())
    # When nearly everything changed, the unchanged rest is too small to compare colours on.
    area = ~changed if share <= WHOLE_SHARE else np.ones_like(changed)
    red, green, blue = (pair.target[area].astype(np.float64) - pair.original[area]).mean(axis=0).tolist()
    shift, colour_shift = _shift(pair.original, pair.target), (red, green, blue)
    findings = [_about_size(pair), _about_shift(shift), _about_colour(colour_shift), _about_share(share)]
    if all(finding.level == "ok" for finding in findings):
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


def _about_shift(shift: tuple[float, float]) -> Finding:
    if np.hypot(*shift) < SHIFT_LIMIT:
        return Finding("ok", "The pictures lie exactly over each other.")
    ways = [
        f"{abs(pixels):.0f} px {positive if pixels > 0 else negative}"
        for pixels, positive, negative in ((shift[0], "to the right", "to the left"), (shift[1], "down", "up"))
        if pixels
    ]
    return Finding(
        "warning",
        f"The target is moved {' and '.join(ways)} against the original, and the LoRA would learn to move things: "
        "unless you want that, align the two in a picture editor.",
    )


def _about_colour(colour_shift: tuple[float, float, float]) -> Finding:
    if max(map(abs, colour_shift)) <= COLOUR_LIMIT:
        return Finding("ok", "The colours of the unchanged parts agree.")
    red, green, blue = colour_shift
    return Finding(
        "warning",
        f"The whole target has other colours (red {red:+.0f}, green {green:+.0f}, blue {blue:+.0f} of 255), and the "
        "LoRA would learn them too: unless you want that, match the colours in a picture editor.",
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


def _shift(original: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """How far the target's content lies right of and below the original's, whole px, up to a quarter of the picture.

    The difference to be learnt may itself look like a shift, so a shift counts only if it explains most of what
    differs; otherwise it is (0, 0).
    """
    first, second = (picture.mean(axis=2) for picture in (original, target))
    limit = first.shape[1] // 4, first.shape[0] // 4

    def difference(shift: tuple[int, int]) -> float:
        return _difference(first, second, *shift)

    best = min([(0, 0), *_likely_shifts(first, second, limit)], key=difference)
    while True:  # descend to the nearest minimum: the peaks of blurred pictures are near the shift, not on it
        x, y = best
        around = [(x + right, y + down) for right in (0, -1, 1) for down in (0, -1, 1)]
        nearer = min((s for s in around if abs(s[0]) <= limit[0] and abs(s[1]) <= limit[1]), key=difference)
        if nearer == best:
            break
        best = nearer
    explained = difference(best) < _BETTER * difference((0, 0))
    return (float(best[0]), float(best[1])) if explained else (0.0, 0.0)


def _likely_shifts(first: np.ndarray, second: np.ndarray, limit: tuple[int, int]) -> list[tuple[int, int]]:
    """The highest peaks (x, y) of the phase correlation (Kuglin and Hines, 1975) of two grey pictures."""
    height, width = first.shape
    window = np.outer(np.hanning(height), np.hanning(width))  # without it the borders of the pictures correlate
    spectra = [np.fft.fft2((grey - grey.mean()) * window) for grey in (first, second)]
    cross = spectra[0].conj() * spectra[1]
    weight = np.abs(cross)
    # Frequencies far weaker than the rest hold only rounding errors and noise: they do not get full weight.
    correlation = np.fft.fftshift(np.fft.ifft2(cross / (weight + 0.01 * weight.mean() + 1e-9)).real)
    left, top = width // 2 - limit[0], height // 2 - limit[1]
    middle = correlation[top : top + 2 * limit[1] + 1, left : left + 2 * limit[0] + 1]
    rows, columns = np.unravel_index(np.argpartition(middle, -_PEAKS, axis=None)[-_PEAKS:], middle.shape)
    return list(zip((columns - limit[0]).tolist(), (rows - limit[1]).tolist(), strict=True))


def _difference(first: np.ndarray, second: np.ndarray, x: int, y: int) -> float:
    """Mean difference, in grey levels, of two grey pictures where they overlap, the second moved back by x, y."""
    height, width = first.shape
    here = first[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    there = second[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
    every = slice(None, None, max(1, min(first.shape) // _SAMPLES))
    return float(np.minimum(np.abs(there[every, every] - here[every, every]), _LARGE).mean())
