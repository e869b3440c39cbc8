"""New pictures: what a LoRA does to pictures that it has never seen.

Noises are denoised without the LoRA: the new pictures. *Reach*: each is noised in part and denoised again at -weight
and at +weight, so that the two differ in what the LoRA changes in a given picture. Nothing says where that is, nor
whether the picture shows the value already; so the difference of the two is looked at, cell by cell of the latents. A
LoRA that makes the pair's change changes the strongest cells about as much as the pair's strongest ones. *Spread*: the
noises are denoised with the LoRA from their beginning, as a prompt draws them. What differs from the picture without
the LoRA, beside the strongest cells, is more than the pair's change. Of a shift, reach is read off these in the end,
and only what goes the pair's way counts. Measured: docs/method.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.latents import LatentPair, conds_at
from lib_addift.diffusion.memory import in_parts, samples_at_once
from lib_addift.diffusion.sampler import ddim, ddim_timesteps
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.evaluation.preview import labelled_grid
from lib_addift.lora.network import LoraNetwork

PROMPTS = (
    "a photo", "a drawing", "a portrait", "a smiling person",
    "a landscape", "a street at night", "a close-up in bright light", "an old painting",
)  # fmt: skip
MOST_LOOKS = 2  # weights that are looked at: the round trip's, and another one
_MEASURED_STEPS = (4, 12)  # DDIM steps, at least and at most: as many as the training's time allows
_FEWEST = 4  # pictures: with less, shares of them say nothing
_AFFORDED = 8  # pictures: so many or fewer are cut down to what the time allows; who asks for more gets them
_NOISE_SEED = 500_000  # added to the run's seed: other noises than those of training and of the strip
_SHOWN_AT = (-1.0, 0.0, 1.0)
_SHOWN_IN_A_ROW = 2  # new pictures
_MOST_SHOWN = 8
_NOT_FINITE = 1e6  # the spread of a picture whose latents are not finite
_DECODED_AT_ONCE = 6
# Where the change of a pair is: its strongest cells, which hold this share of it.
_AREA = 0.8
_REACHED = 0.4  # the least change of the strongest cells, in units of the pair's
_COMMON = 0.4  # a pair whose mean change is less than so much of the change itself has none: a pattern, or a movement
_SPREAD = (
    0.5  # the largest change of the other cells beyond the pair's own there, in units of its whole change (squared)
)


@dataclass(frozen=True)
class NewPictures:
    """What a LoRA did to new pictures, at the multiplier `weight`.

    For each picture: `sizes`, the root mean square change of its strongest cells between -weight and weight, in units
    of the pair's (0 where it goes the other way and that does not count); `spreads`, the squared change of the other
    cells between 0 and weight beyond the pair's own, in units of the pair's whole squared change; `along`, the cosine
    of the strongest cells' mean change with the pair's, below 0 where the change goes the other way; `apart`, how far
    the strongest cells' mean at `weight` is from its median over the pictures, in units of the pair's mean change:
    where all show the same value, they look alike there (0 where the pair's change has no common direction). `wanted`
    is the size that was asked for: 1, or less with a strength below 1. `seconds` are those of drawing and measuring.
    `enough` is the share of pictures to reach, `close` how far apart they may be.
    """

    weight: float = 0.0
    sizes: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    along: tuple[float, ...] = ()
    apart: tuple[float, ...] = ()
    wanted: float = 1.0
    seconds: float = 0.0
    enough: float = 0.75
    close: float = 0.5

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NewPictures:
        """The figures that `dataclasses.asdict` and JSON have made `values` of."""
        read: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**read)

    @property
    def count(self) -> int:
        """How many pictures were drawn; 0 where the evaluation is off, or nothing could be compared with."""
        return len(self.sizes)

    @property
    def reach(self) -> int:
        """On how many the change is about as large, and as concentrated, as in the pair, and ends as on the others."""
        each = zip(self.sizes, self.apart, strict=True)
        return sum(size >= _REACHED * self.wanted and apart <= self.close for size, apart in each)

    @property
    def spread(self) -> int:
        """On how many other things change too."""
        return sum(spread > _SPREAD for spread in self.spreads)

    @property
    def size(self) -> float:
        """The median of `sizes`."""
        return statistics.median(self.sizes) if self.sizes else 0.0

    @property
    def is_backwards(self) -> bool:
        """Whether on most of the pictures the change goes the other way."""
        return sum(cosine < 0 for cosine in self.along) > self.count / 2


@dataclass(frozen=True)
class _PairChange:
    """What a pair's change looks like, wherever it is: means over pairs, of squared changes per cell."""

    area: float  # share of the cells that hold _AREA of it
    strongest: float  # in these cells
    beside: float  # in the other cells, per cell of the whole picture
    whole: float  # in all cells
    direction: torch.Tensor  # (C,) mean change of the strongest cells

    @classmethod
    def of(cls, pairs: Sequence[LatentPair]) -> _PairChange:
        """The mean of what `pairs` differ in; their sizes may differ."""
        each = [cls._of_pair(pair.target.latents - pair.original.latents) for pair in pairs]

        def mean(figure: str) -> float:
            return float(sum(getattr(change, figure) for change in each)) / len(each)

        direction = torch.stack([change.direction for change in each]).mean(dim=0)
        return cls(mean("area"), mean("strongest"), mean("beside"), mean("whole"), direction)

    @property
    def has_direction(self) -> bool:
        """Whether the strongest cells change alike."""
        return float(self.direction.norm()) >= _COMMON * math.sqrt(self.strongest)

    @classmethod
    def _of_pair(cls, change: torch.Tensor) -> _PairChange:
        energy, order = change.square().sum(dim=1).flatten().sort(descending=True)
        count = int((energy.cumsum(dim=0) < _AREA * energy.sum()).sum()) + 1
        whole, inside = float(energy.mean()), float(energy[:count].sum()) / len(energy)
        direction = change.flatten(2)[0, :, order[:count]].mean(dim=1)
        return cls(count / len(energy), float(energy[:count].mean()), whole - inside, whole, direction)


class Painter:
    """Draws the same new pictures with a LoRA at any weight; `network` must be attached.

    `passes` are those of one sample through the UNet that may be made in all, about: see `drawn_size`.
    """

    def __init__(
        self, model: Model, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig, passes: float
    ) -> None:
        self._model, self._network, self._change = model, network, _PairChange.of(pairs)
        self.count, steps = drawn_size(config, passes)
        self._whole, self._rest = ddim_timesteps(steps), ddim_timesteps(_rest_steps(steps), config.kind.noised)
        self._prompts = prompts(config, self.count)
        self._wanted = min(1.0, config.strength)
        self._kind = config.kind
        network.multiplier = 0.0  # the plain conditions: the LoRA may be one of the text model too
        self._conds = model.encode_prompts(self._prompts).float().split()
        generator = torch.Generator("cpu").manual_seed(config.seed + _NOISE_SEED)
        shape = (self.count, *pairs[0].original.latents.shape[1:])
        self._noise, noise = (torch.randn(shape, generator=generator).to(model.device) for _ in range(2))
        (self._still,) = self._denoised(self._noise, self._whole, [0.0])
        start = torch.full((self.count,), self._rest[0], device=model.device)
        self._noised = NoiseSchedule(model.alphas_cumprod).add_noise(self._still, noise, start)
        (self._still_again,) = self._denoised(self._noised, self._rest, [0.0])

    def look(self, weight: float) -> NewPictures:
        """What the LoRA changes in the new pictures when it acts on them, noised, at a multiplier."""
        minus, plus = self._denoised(self._noised, self._rest, [-weight, weight])
        latents = torch.stack([minus, self._still_again, plus]).float()
        sizes, along = self._changes(latents)
        return NewPictures(
            weight, sizes, _rounded(self._spreads(latents), _NOT_FINITE), along,
            _rounded(self._apart(latents), _NOT_FINITE), self._wanted,
            enough=self._kind.enough, close=self._kind.apart,
        )  # fmt: skip

    def draw(self, new: NewPictures) -> tuple[NewPictures, torch.Tensor]:
        """Draw the pictures at the weight of a look, from their noise on.

        Returns the figures with the spread of these, and their latents (3, count, C, h, w) at -weight, 0 and weight.
        """
        minus, plus = self._denoised(self._noise, self._whole, [-new.weight, new.weight])
        latents = torch.stack([minus, self._still, plus])
        sizes, along = self._changes(latents.float()) if self._kind.directed else (new.sizes, new.along)
        spreads = _rounded(self._spreads(latents.float()), _NOT_FINITE)
        return replace(new, sizes=sizes, along=along, spreads=spreads), latents

    def _denoised(self, noisy: torch.Tensor, timesteps: Sequence[int], weights: Sequence[float]) -> torch.Tensor:
        """(len(weights), count, C, h, w): each of `noisy` (count, C, h, w) with the LoRA at each multiplier."""
        items = [(weight, number) for weight in weights for number in range(self.count)]

        def part(chunk: Sequence[tuple[float, int]]) -> torch.Tensor:
            numbers = [number for _, number in chunk]
            multipliers = torch.tensor([weight for weight, _ in chunk], device=self._model.device)
            cond = Conditions.cat([self._conds[number] for number in numbers])
            cond = conds_at(self._model, [self._prompts[n] for n in numbers], cond, self._network, multipliers)
            return ddim(self._model, noisy[numbers], cond, timesteps, network=self._network, multipliers=multipliers)

        drawn = torch.cat(in_parts(part, items, samples_at_once(*noisy.shape[-2:])))
        return drawn.view(len(weights), self.count, *drawn.shape[1:])

    def _strongest(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The change (count, C, cells) between -w and w, and its strongest cells (count, k)."""
        change = (latents[2] - latents[0]).flatten(2)
        energy = change.square().sum(dim=1)
        return change, energy.topk(max(1, round(self._change.area * energy.shape[1])), dim=1).indices

    def _changes(self, latents: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """NewPictures.sizes and along of latents (3, count, C, h, w) at -w, 0 and w."""
        change, strongest = self._strongest(latents)
        along = torch.cosine_similarity(_mean_of(change, strongest), self._change.direction[None], dim=1)
        sizes = (change.square().sum(dim=1).gather(1, strongest).mean(dim=1) / self._change.strongest).sqrt()
        if self._kind.directed and self._change.has_direction:
            sizes = sizes.where(along > 0, 0.0)
        return _rounded(sizes), _rounded(along)

    def _spreads(self, latents: torch.Tensor) -> torch.Tensor:
        """NewPictures.spreads (count,) of latents (3, count, C, h, w) at -w, 0 and w."""
        _, strongest = self._strongest(latents)
        added = (latents[2] - latents[1]).flatten(2).square().sum(dim=1)
        beside = added.scatter(1, strongest, 0.0).mean(dim=1)
        return (beside - self._change.beside) / self._change.whole

    def _apart(self, latents: torch.Tensor) -> torch.Tensor:
        """NewPictures.apart (count,) of latents (3, count, C, h, w) at -w, 0 and w."""
        if not self._change.has_direction:
            return torch.zeros(self.count)
        means = _mean_of(latents[2].flatten(2), self._strongest(latents)[1])
        distances: torch.Tensor = (means - means.median(dim=0).values).norm(dim=1)
        return distances / float(self._change.direction.norm())


def _mean_of(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """(count, C): the mean of (count, C, cells) over some cells of each, (count, k)."""
    return values.gather(2, cells[:, None].expand(-1, values.shape[1], -1)).mean(dim=2)


def drawn_size(config: TrainConfig, passes: float) -> tuple[int, int]:
    """How many new pictures are drawn, and in how many DDIM steps, for about so many passes through the UNet."""
    least, most = (min(steps, config.sampling_steps) for steps in _MEASURED_STEPS)
    count = config.new_pictures
    if count <= _AFFORDED:
        count = min(count, max(_FEWEST, int(passes / picture_passes(config, least))))
    fitting = (steps for steps in range(most, least, -1) if count * picture_passes(config, steps) <= passes)
    return count, next(fitting, least)


def picture_passes(config: TrainConfig, steps: int) -> int:
    """The passes that a new picture takes, at most, with so many DDIM steps.

    It is drawn at -1, 0 and 1, and denoised again without the LoRA and at both signs of each weight looked at.
    """
    looks = MOST_LOOKS if config.calibrate else 1
    return 3 * steps + (1 + 2 * looks) * _rest_steps(steps)


def _rest_steps(steps: int) -> int:
    """The DDIM steps for a noised picture, where one from noise gets `steps`."""
    return (steps + 1) // 2


def prompts(config: TrainConfig, count: int) -> list[str]:
    """Every second one the preview's prompt, or one of PROMPTS where there is none; the others are empty."""
    given = config.preview_prompt or config.prompt
    named = [given or PROMPTS[number % len(PROMPTS)] for number in range((count + 1) // 2)]
    mixed = [named[number // 2] if number % 2 == 0 else "" for number in range(count)]
    return [config.with_trigger(prompt) for prompt in mixed]


@torch.no_grad()
def picture_grid(model: Model, latents: torch.Tensor) -> Image.Image:
    """The first new pictures, two in a row, each at weights -1, 0 and 1; `latents` is (3, count, C, h, w)."""
    shown = latents[:, :_MOST_SHOWN].transpose(0, 1).flatten(0, 1)
    images = np.concatenate(
        in_parts(lambda part: model.decode_latents(torch.cat(list(part))), shown.split(1), _DECODED_AT_ONCE)
    )
    labels, columns = [f"{weight:g}" for weight in _SHOWN_AT], _SHOWN_IN_A_ROW * len(_SHOWN_AT)
    return labelled_grid(images, labels * (len(images) // len(labels)), columns)


def shown_cells(count: int) -> int:
    """How many pictures `picture_grid` shows of so many new pictures: each at three weights."""
    return min(count, _MOST_SHOWN) * len(_SHOWN_AT)


def _rounded(values: torch.Tensor, not_finite: float = 0.0) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values.nan_to_num(not_finite, not_finite, not_finite).tolist())
