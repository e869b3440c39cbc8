"""What the values of `algorithm` differ in, apart from their layers (lora/): rate, weights, how they are judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Algorithm:
    """Facts of one kind of LoRA, found as docs/method.md tells. Weights are in units of the training multiplier."""

    rate_by_width: bool = True  # a narrow UNet needs a higher learning rate
    one_rank: bool = False  # rank and alpha are 1
    weight: float | None = None  # the one that all are used at; None: what the round trip finds
    noised: float = 0.7  # how far a new picture is noised before the LoRA acts on it; 1 = drawn from noise
    # Without guidance: the size of a change on new pictures that is asked for, in units of the pair's, and the share of
    # the pictures to reach.
    wanted: float = 1.0
    enough: float = 0.75
    # Whether only a change that goes the pair's way counts, wherever it ends; such a LoRA is never turned round.
    directed: bool = False


ALGORITHMS = {
    # A shift acts where a picture is decided, at high noise: it is looked at from noise on. What its pair asks for says
    # little of other pictures, so its weight is three quarters of that of training; without guidance it changes less.
    "shift": Algorithm(
        rate_by_width=False, one_rank=True, weight=0.75, wanted=0.5, noised=1.0, enough=0.5, directed=True,
    ),
    "lora": Algorithm(),
    "loha": Algorithm(),
    "lokr": Algorithm(),
}  # fmt: skip
