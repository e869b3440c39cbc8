"""The multiplier that becomes weight 1: by the round trip on the pair, and by what the LoRA does to new pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.evaluation.new_pictures import NewPictures, Painter
from lib_addift.evaluation.round_trip import LEARNT, RoundTrip

_LARGER, _SMALLER = 1.5, 0.67
_AS_LARGE = 0.9  # median size of the change at a smaller weight, in units of the pair's, below which it is not taken


@dataclass(frozen=True)
class Choice:
    """A multiplier, whether something measured set it, and what the LoRA does to new pictures at it."""

    weight: float
    is_calibrated: bool
    new: NewPictures = field(default_factory=NewPictures)


def fixed_weight(config: TrainConfig) -> float | None:
    """The weight of a kind of LoRA for which none is searched, with `strength`."""
    return None if config.kind.weight is None else config.strength * config.kind.weight * config.train_multiplier


def unmeasured_weight(config: TrainConfig) -> float:
    """The weight where nothing was measured: the kind's fixed one, or that of training, with `strength`."""
    return fixed_weight(config) or config.strength


def without_pictures(trip: RoundTrip, config: TrainConfig) -> Choice:
    """The round trip's weight alone. One at which the LoRA would be turned round is not believed."""
    is_calibrated = _is_calibrated(trip, config) and trip.weight > 0
    return Choice(_first_weight(trip, config, is_calibrated=is_calibrated), is_calibrated)


def choose(painter: Painter, trip: RoundTrip, config: TrainConfig) -> tuple[Choice, torch.Tensor]:
    """The round trip's weight, a larger one that reaches more new pictures, or a smaller one that spreads less.

    A negative weight, which turns the LoRA round, is taken only where the new pictures change backwards too. For a kind
    whose weight is fixed neither that nor a smaller weight is tried. Also returns the latents of the new pictures at
    the weight: (3, count, C, h, w), at -1, 0 and 1.
    """
    is_calibrated = _is_calibrated(trip, config)
    first = painter.look(_first_weight(trip, config, is_calibrated=is_calibrated))
    is_backwards = is_calibrated and trip.weight < 0
    best = _second_look(painter, first, config, is_backwards=is_backwards) if config.calibrate else first
    new, latents = painter.draw(best)
    return Choice(new.weight, is_calibrated or best is not first, new), latents


def _is_calibrated(trip: RoundTrip, config: TrainConfig) -> bool:
    """Whether the round trip has found a weight."""
    return config.calibrate and fixed_weight(config) is None and trip.recovery >= LEARNT


def _first_weight(trip: RoundTrip, config: TrainConfig, *, is_calibrated: bool) -> float:
    """The round trip's weight without its sign, where it has found one."""
    return config.strength * abs(trip.weight) if is_calibrated else unmeasured_weight(config)


def _second_look(painter: Painter, first: NewPictures, config: TrainConfig, *, is_backwards: bool) -> NewPictures:
    """The figures at another weight, where there is reason to try one and it is better; else those at the first one."""
    if is_backwards and first.is_backwards:
        return painter.look(-first.weight)
    if not first.is_enough:
        other = painter.look(_LARGER * first.weight)
        return other if _reaches_more(other, first) else first
    if first.spread and fixed_weight(config) is None and first.size * _SMALLER >= _AS_LARGE * first.wanted:
        other = painter.look(_SMALLER * first.weight)
        return other if _spreads_less(other, first) else first
    return first


def _reaches_more(new: NewPictures, than: NewPictures) -> bool:
    return new.reach > than.reach and new.spread <= than.spread


def _spreads_less(new: NewPictures, than: NewPictures) -> bool:
    is_reached = new.is_enough or new.reach >= than.reach
    return new.spread < than.spread and is_reached and new.size >= _AS_LARGE * new.wanted
