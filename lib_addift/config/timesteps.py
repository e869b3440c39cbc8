"""The lowest timestep to train on, where the size of the pictures says it."""

from __future__ import annotations

import math

BY_SIZE = -1  # the setting min_timestep that asks for it
HIGHEST = 700
_AT_64_PX = 500
_PER_DOUBLING = 200


def lowest_timestep(width: int, height: int) -> int:
    """From which timestep on a picture of so many pixels is still undecided, 500 to 700.

    Each doubling of the side leaves a quarter of the signal-to-noise ratio at which a thing of the same share of the
    picture is seen (Hoogeboom et al. 2023, section 3.1). Measured at 64 and at 128 px; beyond that it stays.
    """
    doublings = math.log2(math.sqrt(width * height) / 64)
    return min(HIGHEST, max(_AT_64_PX, round(_AT_64_PX + _PER_DOUBLING * doublings)))
