"""The multiplier that becomes weight 1: by the round trip on the pair, and by what the LoRA does to new pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.evaluation.new_pictures import NewPictures, Painter
from lib_addift.evaluation.round_trip import LEARNT, RoundTrip

_LARGER, _SMALLER = 1.5, 0.67
_CLEARLY = 0.25  # share of the pictures by which a weight must serve better to be taken instead of the round trip's
_ENOUGH = 0.75  # share of the pictures that are reached, from which on no larger weight is tried


@dataclass(frozen=True)
class Choice:
    """A multiplier, whether something measured set it, and what the LoRA does to new pictures at it."""

    weight: float
    is_calibrated: bool
    new: NewPictures = field(default_factory=NewPictures)


def without_pictures(trip: RoundTrip, config: TrainConfig) -> Choice:
    """The round trip's weight alone. One at which the LoRA would be turned round is not believed."""
    is_calibrated = config.calibrate and trip.recovery >= LEARNT and trip.weight > 0
    return Choice(config.strength * (trip.weight if is_calibrated else 1.0), is_calibrated)


def choose(painter: Painter, trip: RoundTrip, config: TrainConfig) -> tuple[Choice, torch.Tensor]:
    """The round trip's weight, a larger one that reaches more new pictures, or a smaller one that spreads less.

    A negative weight, which turns the LoRA round, is taken only where the new pictures change backwards too. Also
    returns the latents of the new pictures at the weight: (3, count, C, h, w), at -1, 0 and 1.
    """
    first, latents = _first(painter, trip, config)
    factor = _other_factor(first.new) if config.calibrate else None
    if factor is None:
        return first, latents
    new, others = painter.measure(first.weight * factor)
    return (Choice(new.weight, True, new), others) if _is_better(new, first.new) else (first, latents)


def _first(painter: Painter, trip: RoundTrip, config: TrainConfig) -> tuple[Choice, torch.Tensor]:
    is_found = config.calibrate and trip.recovery >= LEARNT
    weight = config.strength * (abs(trip.weight) if is_found else 1.0)
    new, latents = painter.measure(weight)
    if is_found and trip.weight < 0 and new.is_backwards:
        new, latents = painter.turned(latents, weight)
    return Choice(new.weight, is_found, new), latents


def _other_factor(new: NewPictures) -> float | None:
    """By what to multiply a weight for a second look; None where the first one is right."""
    if new.reach < _ENOUGH * new.count:
        return _LARGER
    return _SMALLER if new.spread else None


def _is_better(new: NewPictures, than: NewPictures) -> bool:
    """Whether one weight serves better than another: clearly more pictures reached, or clearly fewer with spread."""
    clearly = max(1.0, _CLEARLY * new.count)
    if new.reach - than.reach >= clearly:
        return new.spread <= than.spread
    return new.reach >= than.reach and than.spread - new.spread >= clearly
