"""How far the target's content is moved against the original's, and how to move it back."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from lib_addift.data.fine_shift import fine_shift

Shift = tuple[float, float]  # px; so far right and so far down

_PRECISION = 4  # shifts are rounded to this part of a pixel
_LARGEST = 512  # px of the shorter side; larger pictures are reduced before they are compared
_FINE = 2  # px; smaller movements are left to `fine_shift`
_LARGE = 32.0  # grey levels; larger differences are clipped, so that the change itself does not dominate
_BETTER = 0.7  # a shift that leaves less than this share of the difference explains it
_PEAKS = 16  # peaks of the correlation that are tried on the pictures
_SAMPLES = 256  # pixels a side that are compared for whole px; more do not measure them better


def find_shift(original: np.ndarray, target: np.ndarray) -> Shift:
    """How far the content of `target` lies right of and below that of `original`, both (H, W, 3) uint8.

    Rounded to a quarter of a pixel; up to a quarter of the picture where most of the difference is the movement. (0, 0)
    where nothing says that the picture as a whole has moved, as when only a part of it did.
    """
    step = max(1, min(original.shape[:2]) // _LARGEST)
    first, second = (_reduced(picture.mean(axis=2), step) for picture in (original, target))
    whole = _whole_shift(first, second)
    fine = fine_shift(*_overlap(first, second, *whole))
    x, y = (step * (rough + part) for rough, part in zip(whole, fine, strict=True))
    return round(_PRECISION * x) / _PRECISION, round(_PRECISION * y) / _PRECISION


def move_back(picture: np.ndarray, shift: Shift, beneath: np.ndarray | None = None) -> np.ndarray:
    """A picture, (H, W) or (H, W, 3) uint8, with its content moved by `-shift`; whole px change no value.

    At the edges, where nothing of it is known, it is `beneath`; without that its border is repeated.
    """
    if not any(shift):
        return picture
    margin = math.ceil(max(map(abs, shift))) + 2
    padded = np.pad(picture, ((margin, margin), (margin, margin), *[(0, 0)] * (picture.ndim - 2)), mode="edge")
    height, width = picture.shape[:2]
    left, top = margin + shift[0], margin + shift[1]
    box = (left, top, left + width, top + height)
    moved = np.array(Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC, box=box))
    if beneath is None:
        return moved
    rows, columns = (_known(length, offset) for length, offset in ((height, shift[1]), (width, shift[0])))
    result = beneath.copy()
    result[rows, columns] = moved[rows, columns]
    return result


def _known(length: int, offset: float) -> slice:
    """Of so many px those that are still in the picture after they are moved by `-offset`."""
    return slice(max(0, math.ceil(-offset)), length - max(0, math.ceil(offset)))


def _whole_shift(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """A movement of the second of two grey pictures in whole px, up to a quarter of the picture.

    The difference to be learnt may itself look like a shift, so a shift counts only if it explains most of what
    differs; otherwise it is (0, 0).
    """
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
    explained = max(map(abs, best)) >= _FINE and difference(best) < _BETTER * difference((0, 0))
    return best if explained else (0, 0)


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
    here, there = _overlap(first, second, x, y)
    every = slice(None, None, max(1, min(first.shape) // _SAMPLES))
    return float(np.minimum(np.abs(there[every, every] - here[every, every]), _LARGE).mean())


def _overlap(first: np.ndarray, second: np.ndarray, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """The parts of two pictures that show the same when the second is moved by x, y."""
    height, width = first.shape
    here = first[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    there = second[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
    return here, there


def _reduced(grey: np.ndarray, step: int) -> np.ndarray:
    """A grey picture with squares of `step` px made one."""
    rows, columns = (length // step for length in grey.shape)
    squares = grey[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return np.asarray(squares.mean((1, 3)))
