"""A small movement of one picture against another, to a fraction of a pixel.

The change to be learnt must not be taken for a movement. So the pictures are compared in small blocks, each with a gain
and an offset of its own (another colour is no movement), and a shift counts only if most blocks that can tell agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SMALLEST = 0.4  # px; smaller movements are not told from an uneven change
_STEPS = 3  # of Gauss-Newton; each begins with the target moved back by what was found
_STARTS = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))  # px
_ROUNDS = 8  # of reweighting in a step
_SIGMA = 1.0  # px, of the Gaussian that makes fractions of a pixel meaningful
_EVEN = 0.02  # misfit; blocks that fit better than that count alike
_NOISE = 4.0  # square grey levels; the contrast of JPEG and grain in a block
_BORDER = 4  # px that are left out: there the target has no counterpart
_LIKE = 0.5  # misfit below which a block shows the same in both pictures
_CLEARLY = 0.6  # a block tells when one misfit is so many times the other
_TELLS = 0.03  # misfit above which it is no matter of noise
_SHARE = 0.7  # of the blocks that tell, so many must say that they moved
_FEWEST = 2  # blocks that say so


@dataclass(frozen=True)
class _Moments:
    """Variances and covariances within each block of the original A, the target B and A's slopes x and y; (blocks,)."""

    aa: np.ndarray
    bb: np.ndarray
    ab: np.ndarray
    ax: np.ndarray
    ay: np.ndarray
    bx: np.ndarray
    by: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, slopes: tuple[np.ndarray, np.ndarray], side: int) -> _Moments:
        fields = {"a": first, "b": second, "x": slopes[0], "y": slopes[1]}
        means = {name: _block_means(values, side) for name, values in fields.items()}
        return cls(**{
            pair: _block_means(fields[pair[0]] * fields[pair[1]], side) - means[pair[0]] * means[pair[1]]
            for pair in cls.__dataclass_fields__
        })  # fmt: skip

    @property
    def misfit(self) -> np.ndarray:
        """The share of a block's contrast, 0..1, that differs whatever gain above 0 and offset it is given."""
        return np.asarray(1 - self.ab.clip(0) ** 2 / ((self.aa + _NOISE) * (self.bb + _NOISE)))

    @property
    def weight(self) -> np.ndarray:
        """0..1: how much a block shows beside its noise."""
        contrast = np.minimum(self.aa, self.bb)
        return np.asarray(contrast / (contrast + 8 * _NOISE))

    def shift(self) -> np.ndarray:
        """The x and y, (2,), by which most blocks of B are moved against A, of small movements (Lucas, Kanade 1981).

        In each block B = gain * (A - x * slope_x - y * slope_y) + offset. Blocks that fit badly, where the pictures
        differ in something else, count for little: iteratively reweighted least squares of the misfit's logarithm.
        """
        scale = 1 / (self.bb + _NOISE)
        gain = (self.ab / self.aa.clip(1e-6)).clip(-3, 3)
        still = (self.bb - 2 * gain * self.ab + gain**2 * self.aa) * scale
        sides = np.stack([self.ax * gain - self.bx, self.ay * gain - self.by]) * gain * scale  # (2, blocks)
        squares = np.stack([self.xx, self.xy, self.xy, self.yy]).reshape(2, 2, -1) * gain**2 * scale
        candidates = []
        for start in _STARTS:
            found = np.array(start)
            for _ in range(_ROUNDS):
                misfit = still - 2 * found @ sides + np.einsum("i,ijb,j->b", found, squares, found)
                trust = self.weight / (misfit.clip(0) + _EVEN)
                found = np.linalg.solve(squares @ trust + 1e-9 * np.eye(2), sides @ trust)
            candidates.append((float((self.weight * np.log(misfit.clip(0) + _EVEN)).sum()), found))
        return np.asarray(min(candidates, key=lambda each: each[0])[1].clip(-1, 1))


def fine_shift(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """How far the content of the second of two grey pictures, (H, W), lies right of and below the first's, up to 3 px.

    (0, 0) when it is less than 0.4 px, or when most of the blocks that can tell do not agree.
    """
    side = max(8, min(first.shape) // 32)
    before, after = _spectrum(first), _spectrum(second)
    fixed = np.fft.irfft2(before, first.shape)
    down, right = (np.asarray(slope) for slope in np.gradient(fixed))
    total = np.zeros(2)
    seen: list[_Moments] = []
    for _ in range(_STEPS + 1):
        moved = np.fft.irfft2(after * _phases(first.shape, total), first.shape)
        seen.append(_Moments.of(fixed, moved, (right, down), side))
        if len(seen) <= _STEPS:
            total = total + seen[-1].shift()
    if np.hypot(*total) < _SMALLEST or not _agree(seen[0], seen[-1]):
        return 0.0, 0.0
    return float(total[0]), float(total[1])


def _agree(still: _Moments, moved: _Moments) -> bool:
    """Whether most blocks that tell at all fit better with the target moved back than as it is."""
    before, after, weight = still.misfit, moved.misfit, np.minimum(still.weight, moved.weight)
    tell = (weight > 0.3) & (np.minimum(before, after) < _LIKE) & (np.maximum(before, after) > _TELLS)
    better, worse = tell & (after < _CLEARLY * before), tell & (before < _CLEARLY * after)
    told = float(weight[better | worse].sum())
    return int(better.sum()) >= _FEWEST and float(weight[better].sum()) >= _SHARE * told


def _spectrum(grey: np.ndarray) -> np.ndarray:
    """The Fourier transform of a grey picture blurred by a Gaussian."""
    rows, columns = np.fft.fftfreq(grey.shape[0])[:, None], np.fft.rfftfreq(grey.shape[1])
    return np.asarray(np.fft.rfft2(grey) * np.exp(-2 * (np.pi * _SIGMA) ** 2 * (rows**2 + columns**2)))


def _phases(size: tuple[int, ...], shift: np.ndarray) -> np.ndarray:
    """What a spectrum of a picture of `size` is multiplied with to move its content by `-shift`."""
    rows, columns = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])
    return np.asarray(np.exp(2j * np.pi * (columns * shift[0] + rows * shift[1])))


def _block_means(values: np.ndarray, side: int) -> np.ndarray:
    """Means of (H, W) over squares of `side` px, flat, without the border."""
    rows, columns = ((length - 2 * _BORDER) // side for length in values.shape)
    inner = values[_BORDER : _BORDER + rows * side, _BORDER : _BORDER + columns * side]
    return np.asarray(inner.reshape(rows, side, columns, side).mean((1, 3)).ravel())
