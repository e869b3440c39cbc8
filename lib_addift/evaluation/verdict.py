"""What was measured of a LoRA, in a sentence or two for the person."""

from __future__ import annotations

from enum import Enum

from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.evaluation.round_trip import LEARNT, RoundTrip

_FAILED = 0.25
_SPREADS = 0.5  # share of the new pictures on which other things change too
_NOT_LEARNT = "Use more steps, a higher learning rate, another preset, or two pictures that differ more clearly."
_TOO_FEW = "For the others train on more pairs, or on one that shows the difference more strongly."
_TOO_MUCH = "Against that use a lower weight, more pairs, or a training prompt that says what the pictures show."


class Level(Enum):
    """How good a LoRA is, by all that was measured."""

    GOOD = "good"
    WEAK = "weak"
    FAILED = "failed"
    UNMEASURED = "unmeasured"


def level_of(trip: RoundTrip, new: NewPictures) -> Level:
    """By new pictures where there are some, else by the round trip; failed only where both say so."""
    if not trip.is_measured or (trip.is_figure_only and not new.count):
        return Level.UNMEASURED
    if not new.count:
        return Level.FAILED if trip.recovery < LEARNT else Level.WEAK if trip.recovery < 0.5 else Level.GOOD
    if new.is_enough:
        return Level.GOOD
    return Level.FAILED if trip.recovery < LEARNT and new.reach <= _FAILED * new.count else Level.WEAK


def verdict(trip: RoundTrip, new: NewPictures) -> str:
    """What was seen, and what to do about it where it is not enough."""
    if not new.count:
        return trip.verdict
    if level_of(trip, new) is Level.FAILED:
        return f"The LoRA did not learn the difference. {_seen(new)} {_of_the_pair(trip)} {_NOT_LEARNT}"
    of_the_pair = "" if trip.is_figure_only else _of_the_pair(trip)
    return " ".join(filter(None, (_seen(new), _remedy(new), _turned(new), of_the_pair)))


def _seen(new: NewPictures) -> str:
    """Both counts."""
    on = f"On {new.reach} of {new.count} new pictures it makes your change"
    if not new.reach:
        on = f"On none of {new.count} new pictures it makes your change"
    if not new.spread:
        return f"{on}; nothing else moves."
    on_some = f"{new.spread} of them" if new.spread < new.count else "all of them"
    return f"{on}; on {on_some} other things move too."


def _remedy(new: NewPictures) -> str:
    remedies = []
    if not new.is_enough:
        remedies.append(_TOO_FEW)
    if new.spread > _SPREADS * new.count:
        remedies.append(_TOO_MUCH)
    return " ".join(remedies)


def _turned(new: NewPictures) -> str:
    if new.weight >= 0:
        return ""
    return "It had learnt the change backwards, on these pictures as on its own pair, so it was turned round."


def _of_the_pair(trip: RoundTrip) -> str:
    if trip.weight < 0 and trip.recovery >= LEARNT:
        return f"The round trip of its own pair reproduces {trip.recovery:.0%} of the difference, at a negative weight."
    return f"The LoRA reproduces {trip.recovery:.0%} of the difference of its own pair."
