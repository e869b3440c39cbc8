"""Proof that a LoRA learnt the difference it was shown: the round trip, and the weight at which it reproduces it.

Each picture is noised to about 60 % and denoised again with the LoRA at several weights. At the right weight the
original comes back as the target, and at the opposite weight the target as the original. Needs no second model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from lib_addift.config import TrainConfig
from lib_addift.encode import LatentPair, cond_at
from lib_addift.hosts.base import Host
from lib_addift.lora import LoraNetwork
from lib_addift.plan import Direction
from lib_addift.preview import labelled_row
from lib_addift.sample import ddim, ddim_timesteps
from lib_addift.schedule import NoiseSchedule

LEARNT = 0.2  # a recovery below this is no proof
_GRID = (-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0)  # in units of the training multiplier
_HALVINGS = 3
WEIGHTS_TRIED = len(_GRID) + _HALVINGS
NOISES = 2
# Past the best weight the score hardly falls, but on new pictures other things begin to change: of the weights that are
# nearly as good as the best, the weakest is taken (measured on the tiny world: docs/method.md).
_NEARLY = 0.98


@dataclass(frozen=True)
class RoundTrip:
    """What the round trip found.

    `recovery`: share of the pair's difference reproduced at `weight`, 0 to 1 (1 - squared error / squared difference).
    `weight`: the multiplier, of the LoRA as trained, that is to be weight 1; negative when it learnt the opposite.
    `curve`: (multiplier, score) of every weight tried, for plots.
    """

    recovery: float
    weight: float
    curve: tuple[tuple[float, float], ...]

    @classmethod
    def without_pairs(cls) -> RoundTrip:
        """What is known where single pictures were learnt: nothing."""
        return cls(0.0, 1.0, ())

    @property
    def is_measured(self) -> bool:
        return bool(self.curve)

    @property
    def verdict(self) -> str:
        """One sentence for the person."""
        if not self.is_measured:
            return "Single pictures have no difference on which the LoRA could be measured: look at the strip."
        if self.recovery < LEARNT:
            return (
                f"The LoRA did not learn the difference: it reproduces {self.recovery:.0%} of it. Use more steps, "
                "a higher learning rate, another preset, or two pictures that differ more clearly."
            )
        if self.weight < 0:
            return (
                f"The LoRA learnt the difference backwards ({self.recovery:.0%} of it, at a negative weight); "
                "calibration turns it round. If you did not calibrate, use it at a negative weight."
            )
        return f"The LoRA reproduces {self.recovery:.0%} of the difference."


@torch.no_grad()
def round_trip(host: Host, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig) -> RoundTrip:
    """Try a grid of weights in both directions, then close in on the one to use; `network` must be attached."""
    probe = _Probe(host, network, pairs, config)
    scores = probe.scores([m * config.train_multiplier for m in _GRID])
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


@torch.no_grad()
def recovery_at(
    host: Host, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig, weight: float
) -> float:
    """The recovery, 0 to 1, on pairs that were not trained on, at the weight that was found on those that were."""
    return max(0.0, _Probe(host, network, pairs, config).scores([weight])[weight])


@torch.no_grad()
def round_trip_pictures(
    host: Host, network: LoraNetwork, pair: LatentPair, config: TrainConfig, weight: float
) -> Image.Image:
    """Both round trips side by side: each picture, denoised without the LoRA, and at `weight`, which is weight 1."""
    probe = _Probe(host, network, [pair], config)
    latents, labels = [], []
    for direction, name, sign in ((Direction.FORWARD, "original", 1), (Direction.REVERSE, "target", -1)):
        latents += [pair.reference(direction).latents, probe.pictures(pair, direction, 0, [0.0, sign * weight])]
        labels += [name, "no LoRA", f"weight {sign}"]
    return labelled_row(host.decode_latents(torch.cat(latents)), labels)


class _Probe:
    """Runs round trips and scores them; what does not depend on the weight is computed once."""

    def __init__(self, host: Host, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig) -> None:
        self._host, self._network, self._pairs, self._config = host, network, pairs, config
        self._timesteps = ddim_timesteps(config.sampling_steps, config.proof_strength)
        self._still: dict[tuple[int, Direction, int], torch.Tensor] = {}

    def scores(self, weights: Sequence[float]) -> dict[float, float]:
        """1 - (squared error / squared difference) of each weight, averaged over pairs, directions and noises."""
        totals = torch.zeros(len(weights))
        runs = [(p, d, n) for p in range(len(self._pairs)) for d in Direction for n in range(NOISES)]
        for run in runs:
            totals += self._score_run(run, weights)
        return dict(zip(weights, (totals / len(runs)).nan_to_num(nan=-math.inf).tolist(), strict=True))

    def _score_run(self, run: tuple[int, Direction, int], weights: Sequence[float]) -> torch.Tensor:
        pair, direction, noise = self._pairs[run[0]], run[1], run[2]
        sign = 1.0 if direction is Direction.FORWARD else -1.0
        first_time = run not in self._still
        results = self.pictures(pair, direction, noise, [*[0.0] * first_time, *[sign * weight for weight in weights]])
        if first_time:
            self._still[run], results = results[:1], results[1:]
        wanted = pair.student(direction).latents - pair.reference(direction).latents
        # Against the round trip without LoRA, so that what the noising itself loses does not count.
        error = (results - self._still[run] - wanted).square()
        if pair.mask is not None:
            error, wanted = error * pair.mask, wanted * pair.mask.sqrt()
        return 1 - (error.sum(dim=(1, 2, 3)) / wanted.square().sum()).cpu()

    def pictures(self, pair: LatentPair, direction: Direction, noise: int, weights: Sequence[float]) -> torch.Tensor:
        """The reference side of `direction`, noised and denoised at each weight: latents (len(weights), 4, h, w)."""
        start = pair.reference(direction)
        schedule = NoiseSchedule(self._host.alphas_cumprod)
        generator = torch.Generator("cpu").manual_seed(self._config.seed + noise)
        noise_latents = torch.randn(start.latents.shape, generator=generator).to(start.latents.device)
        first = torch.tensor([self._timesteps[0]], device=start.latents.device)
        noisy = schedule.add_noise(start.latents, noise_latents, first)
        multipliers = torch.tensor(weights, device=noisy.device)
        cond = cond_at(self._host, start.prompt, start.cond, self._network, multipliers)
        return ddim(
            self._host, noisy.expand(len(weights), -1, -1, -1), cond, self._timesteps, network=self._network,
            multipliers=multipliers,
        )  # fmt: skip
