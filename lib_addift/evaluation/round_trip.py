"""The round trip: how much of its pair's difference a LoRA reproduces, and at which weight.

Each picture is noised to about 60 % and denoised again with the LoRA at several weights. At the right weight the
original comes back as the target, and at the opposite weight the target as the original. Needs no second model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.latents import Direction, LatentPair, conds_at
from lib_addift.diffusion.memory import in_parts, samples_at_once
from lib_addift.diffusion.sampler import ddim, ddim_timesteps
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.evaluation.preview import labelled_row
from lib_addift.lora.network import LoraNetwork

LEARNT = 0.2  # below this recovery the difference was not learnt
_LADDER = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 14.0)  # weights, in units of the training multiplier
_FIRST = slice(4, 6)  # the rungs around the best weight of most LoRAs
_OVERVIEW = slice(1, None, 2)  # every second rung
_HALVINGS = 2
WEIGHTS_TRIED = 6  # at most, for most LoRAs: the start, one or two rungs beside it, and the halvings
NOISES = 2
TRIPS = tuple((direction, noise) for direction in Direction for noise in range(NOISES))  # of each pair and weight
_ENOUGH_STEPS = 6  # DDIM steps: they find the same weight as 12, within a tenth, in half the time (docs/method.md)
_SIDES = ((Direction.FORWARD, "original", 1), (Direction.REVERSE, "target", -1))
# Above the best weight the score hardly falls, but in new pictures other things begin to change. So of the weights with
# at least this share of the best score the smallest is used (measured on the tiny world: docs/method.md).
_NEARLY = 0.98


@dataclass(frozen=True)
class RoundTrip:
    """The result of a round trip.

    `recovery`: share of the pairs' difference reproduced at `weight`, 0 to 1 (1 - squared error / squared difference).
    `weight`: the multiplier of the LoRA as trained that does so; negative where only the opposite direction does.
    `curve`: (multiplier, score) of every weight tried, in ascending order; scores may be negative.
    `is_figure_only`: no weight was searched, and a low recovery does not say that nothing was learnt: a shift acts at
    high noise, where a picture is decided, and its noisy pair is decided already.
    """

    recovery: float
    weight: float
    curve: tuple[tuple[float, float], ...]
    is_figure_only: bool = False

    @classmethod
    def without_pairs(cls) -> RoundTrip:
        """The result where only single pictures were learnt: nothing was measured."""
        return cls(0.0, 1.0, ())

    @property
    def is_measured(self) -> bool:
        """Whether there were pairs to measure on."""
        return bool(self.curve)

    @property
    def verdict(self) -> str:
        """The result in a sentence or two for the person."""
        if not self.is_measured:
            return "Single pictures have no difference on which the LoRA could be measured: look at the strip."
        if self.is_figure_only:
            return (
                f"The LoRA reproduces {self.recovery:.0%} of the difference of its own pair, which says little of "
                "other pictures: have new ones drawn."
            )
        if self.recovery < LEARNT:
            return (
                f"The LoRA did not learn the difference: it reproduces {self.recovery:.0%} of it. Use more steps, "
                "a higher learning rate, another preset, or two pictures that differ more clearly."
            )
        if self.weight < 0:
            return (
                f"In the round trip of its own pair the LoRA reproduces {self.recovery:.0%} of the difference, at a "
                "negative weight only. That alone does not show that it is backwards, so it was not turned round: look "
                "at the strip, and have new pictures drawn."
            )
        return f"The LoRA reproduces {self.recovery:.0%} of the difference."


def trip_steps(config: TrainConfig) -> int:
    """The DDIM steps of a round trip that is measured."""
    return min(config.sampling_steps, _ENOUGH_STEPS)


@torch.no_grad()
def round_trip(model: Model, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig) -> RoundTrip:
    """Measure the LoRA on `pairs` at several weights, and choose the weight to use; `network` must be attached.

    First a search over _LADDER for the weight with the best score; then halvings between the smallest tried weight that
    is nearly as good and the next smaller one that is not.
    """
    probe = _Probe(model, network, pairs, config)
    ladder = [rung * config.train_multiplier for rung in _LADDER]
    scores = probe.scores(ladder[_FIRST])
    _climb(probe, scores, ladder)
    if max(scores.values()) < LEARNT:  # nothing learnt, or backwards, or the best weight is behind a local maximum
        overview = ladder[_OVERVIEW]
        scores |= probe.scores([weight for weight in (-overview[0], *overview) if weight not in scores])
        if max(scores, key=scores.__getitem__) < 0:
            scores |= probe.scores([-weight for weight in overview[1:]])
        _climb(probe, scores, ladder)
    best = max(scores, key=scores.__getitem__)

    def is_enough(weight: float) -> bool:
        top = max(scores.values())
        return scores[weight] >= (top * _NEARLY if top > 0 else top)

    weaker = [w for w in scores if 0 < w / best <= 1]  # the best one and what lies between it and 0
    weight = min(filter(is_enough, weaker), key=abs)
    limit = max((w for w in weaker if abs(w) < abs(weight)), key=abs, default=0.0)
    for _ in range(_HALVINGS):
        middle = (weight + limit) / 2
        scores |= probe.scores([middle])
        weight, limit = (middle, limit) if is_enough(middle) else (weight, middle)
    return RoundTrip(max(0.0, scores[weight]), weight, tuple(sorted(scores.items())))


def _climb(probe: _Probe, scores: dict[float, float], ladder: Sequence[float]) -> None:
    """Add to `scores` the rungs beside the best one, with its sign, until both neighbours are known."""
    while True:
        best = max(scores, key=scores.__getitem__)
        place = ladder.index(abs(best))
        beside = (*ladder[max(place - 1, 0) : place], *ladder[place + 1 : place + 2])
        new = [weight for weight in (math.copysign(rung, best) for rung in beside) if weight not in scores]
        if not new:
            return
        scores |= probe.scores(new)


@torch.no_grad()
def round_trip_at(
    model: Model, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig, weight: float
) -> RoundTrip:
    """Measure the LoRA on `pairs` at one weight, that of training being 1; `network` must be attached."""
    scores = _Probe(model, network, pairs, config).scores([weight])
    return RoundTrip(max(0.0, scores[weight]), weight, tuple(scores.items()), is_figure_only=True)


@torch.no_grad()
def round_trip_pictures(
    model: Model, network: LoraNetwork, pair: LatentPair, config: TrainConfig, weight: float
) -> Image.Image:
    """Both round trips side by side: the picture, denoised without the LoRA, and with it at `weight`, labelled 1.

    `network` must be attached.
    """
    trips = [_Trip(direction, 0, tried) for direction, *_ in _SIDES for tried in (0.0, weight)]
    drawn = _denoised(model, network, pair, trips, config=config, steps=config.sampling_steps).split(2)
    latents, labels = [], []
    for (direction, name, sign), pictures in zip(_SIDES, drawn, strict=True):
        latents += [pair.reference(direction).latents, pictures]
        labels += [name, "no LoRA", f"weight {sign}"]
    return labelled_row(model.decode_latents(torch.cat(latents)), labels)


@dataclass(frozen=True)
class _Trip:
    """One picture to be noised and denoised: the original with the LoRA at `weight`, the target at `-weight`."""

    direction: Direction
    noise: int  # 0 to NOISES - 1
    weight: float


class _Probe:
    """Measures the score of weights. The round trips without the LoRA are made once, with the first weights."""

    def __init__(self, model: Model, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig) -> None:
        self._model, self._network, self._pairs, self._config = model, network, pairs, config
        self._still: dict[int, torch.Tensor] = {}  # by pair, the results without the LoRA: (trips, 1, C, h, w)

    def scores(self, weights: Sequence[float]) -> dict[float, float]:
        """1 - (squared error / squared difference) of each weight, averaged over pairs, directions and noises."""
        found = torch.stack([self._score(number, weights) for number in range(len(self._pairs))]).mean(dim=0)
        return dict(zip(weights, found.nan_to_num(nan=-math.inf).tolist(), strict=True))

    def _score(self, number: int, weights: Sequence[float]) -> torch.Tensor:
        """The scores on one pair, (len(weights),)."""
        pair = self._pairs[number]
        asked = [*([] if number in self._still else [0.0]), *weights]
        trips = [_Trip(direction, noise, weight) for direction, noise in TRIPS for weight in asked]
        steps = trip_steps(self._config)
        drawn = _denoised(self._model, self._network, pair, trips, config=self._config, steps=steps)
        drawn = drawn.unflatten(0, (len(TRIPS), len(asked)))
        if number not in self._still:
            self._still[number], drawn = drawn[:, :1], drawn[:, 1:]
        wanted = torch.cat([pair.student(d).latents - pair.reference(d).latents for d, _ in TRIPS]).unsqueeze(1)
        # Against the round trip without LoRA, so that what the noising itself loses does not count.
        error = (drawn - self._still[number] - wanted).square()
        if pair.mask is not None:
            error, wanted = error * pair.mask, wanted * pair.mask.sqrt()
        scores: torch.Tensor = 1 - error.sum(dim=(2, 3, 4)) / wanted.square().sum(dim=(2, 3, 4))
        return scores.mean(dim=0).cpu()


def _denoised(
    model: Model, network: LoraNetwork, pair: LatentPair, trips: Sequence[_Trip], *, config: TrainConfig, steps: int
) -> torch.Tensor:
    """The denoised latents (len(trips), C, h, w) of each trip, by DDIM in so many steps."""
    timesteps = ddim_timesteps(steps, config.proof_strength)
    schedule = NoiseSchedule(model.alphas_cumprod)
    noises = [
        torch.randn(pair.original.latents.shape, generator=torch.Generator("cpu").manual_seed(config.seed + noise))
        for noise in range(NOISES)
    ]

    def ends(chunk: Sequence[_Trip]) -> torch.Tensor:
        sides = [pair.reference(trip.direction) for trip in chunk]
        latents = torch.cat([side.latents for side in sides])
        noise = torch.cat([noises[trip.noise] for trip in chunk]).to(latents.device)
        noisy = schedule.add_noise(latents, noise, torch.full((len(chunk),), timesteps[0], device=latents.device))
        signed = [trip.weight if trip.direction is Direction.FORWARD else -trip.weight for trip in chunk]
        multipliers = torch.tensor(signed, device=latents.device)
        cond = Conditions.cat([side.cond for side in sides])
        cond = conds_at(model, [side.prompt for side in sides], cond, network, multipliers)
        return ddim(model, noisy, cond, timesteps, network=network, multipliers=multipliers)

    return torch.cat(in_parts(ends, trips, samples_at_once(*pair.original.latents.shape[-2:])))
