"""New pictures: what a LoRA does to pictures that it has never seen.

Noises are denoised without the LoRA: the new pictures. *Reach*: each is noised in part and denoised again at -weight
and at +weight, so that the two differ in what the LoRA changes in a given picture. Nothing says where that is, nor
whether the picture shows the value already; so the difference of the two is looked at, cell by cell of the latents. A
LoRA that makes the pair's change changes the strongest cells about as much as the pair's strongest ones. *Spread*: the
noises are denoised with the LoRA from their beginning, as a prompt draws them. What differs from the picture without
the LoRA, beside the strongest cells, is more than the pair's change. Of a shift, reach too is read off these, which
have guidance where a prompt is known, and only what goes the pair's way counts. Measured: docs/method.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.latents import LatentPair, conds_at
from lib_addift.diffusion.memory import in_parts, samples_at_once
from lib_addift.diffusion.sampler import Guidance, ddim, ddim_timesteps
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.evaluation.change import PairChange
from lib_addift.evaluation.preview import labelled_grid, preview_prompts
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
_DECODED_AT_ONCE = 6
_REACHED = 0.4  # the least change of the strongest cells, in units of the pair's
_CLOSE = 0.5  # how far apart reached pictures may be
_SPREAD = 0.5  # the largest squared change of the other cells beyond the pair's own, in units of its whole one


@dataclass(frozen=True)
class NewPictures:
    """What a LoRA did to new pictures, at the multiplier `weight`.

    For each picture: `sizes`, the root mean square change of its strongest cells between -weight and weight, in units
    of the pair's (0 where it goes the other way and that does not count); `spreads`, the squared change of the other
    cells between 0 and weight beyond the pair's own, in units of the pair's whole squared change; `along`, the cosine
    of the strongest cells' mean change with the pair's, below 0 where the change goes the other way; `apart`, how far
    the strongest cells' mean at `weight` is from its median over the pictures, in units of the pair's mean change:
    where all show the same value, they look alike there (0 where that is not compared). `wanted` is the size that was
    asked for: 1, or less without guidance or with a strength below 1. `seconds` are those of drawing and measuring.
    `enough` is the share of pictures to reach.
    """

    weight: float = 0.0
    sizes: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    along: tuple[float, ...] = ()
    apart: tuple[float, ...] = ()
    wanted: float = 1.0
    seconds: float = 0.0
    enough: float = 0.75

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> NewPictures:
        """The figures that `dataclasses.asdict` and JSON have made `values` of."""
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        read: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items()}
        return cls(**read)

    @property
    def count(self) -> int:
        """How many pictures were drawn; 0 where the evaluation is off, or nothing could be compared with."""
        return len(self.sizes)

    @property
    def reach(self) -> int:
        """On how many the change is about as large, and as concentrated, as in the pair, and ends as on the others."""
        each = zip(self.sizes, self.apart, strict=True)
        return sum(size >= _REACHED * self.wanted and apart <= _CLOSE for size, apart in each)

    @property
    def is_enough(self) -> bool:
        """Whether so many are reached that the LoRA is said to work."""
        return self.reach >= self.enough * self.count

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


@dataclass(frozen=True, eq=False)
class _Start:
    """Where pictures are denoised from: latents (count, C, h, w) with the noise of the first of `timesteps`."""

    noisy: torch.Tensor
    timesteps: Sequence[int]
    seen: dict[float, torch.Tensor] = field(default_factory=dict)  # clean latents for each multiplier so far


class Painter:
    """Draws the same new pictures with a LoRA at any weight; `network` must be attached.

    `passes` are those of one sample through the UNet that may be made in all, about: see `drawn_size`.
    """

    def __init__(
        self, model: Model, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig, passes: float
    ) -> None:
        self._model, self._network, self._change = model, network, PairChange.of(pairs)
        self.count, steps = drawn_size(config, passes)
        self._prompts = prompts(config, self.count)
        self._kind = config.kind
        is_guided = _is_guided(config)
        self._wanted = min(1.0, config.strength) * (1.0 if is_guided else self._kind.wanted)
        self._enough = NewPictures.enough if is_guided else self._kind.enough
        network.multiplier = 0.0  # the plain conditions: the LoRA may be one of the text model too
        uncond, *self._conds = model.encode_prompts(["", *self._prompts]).float().split()
        self._guidance = Guidance(uncond, config.preview_cfg_scale) if is_guided else None
        generator = torch.Generator("cpu").manual_seed(config.seed + _NOISE_SEED)
        shape = (self.count, *pairs[0].original.latents.shape[1:])
        noises = (torch.randn(shape, generator=generator).to(model.device) for _ in range(2))
        self._drawn = _Start(next(noises), ddim_timesteps(steps))
        self._looked_at = self._drawn
        if self._kind.noised < 1:
            self._looked_at = self._noised(next(noises), ddim_timesteps(_rest_steps(steps), self._kind.noised))

    def look(self, weight: float) -> NewPictures:
        """What the LoRA changes in the new pictures at a multiplier, where the kind is looked at: noised, or drawn."""
        changes = self._change.compared(self._latents(self._looked_at, weight), directed=self._kind.directed)
        return NewPictures(weight, **vars(changes), wanted=self._wanted, enough=self._enough)

    def draw(self, new: NewPictures) -> tuple[NewPictures, torch.Tensor]:
        """Draw the pictures at the weight of a look, from their noise on.

        Returns the figures with the spread of these, and their latents (3, count, C, h, w) at -weight, 0 and weight.
        """
        latents = self._latents(self._drawn, new.weight)
        return replace(new, spreads=self._change.compared(latents, directed=self._kind.directed).spreads), latents

    def _noised(self, noise: torch.Tensor, timesteps: Sequence[int]) -> _Start:
        """The new pictures without the LoRA, noised again."""
        start = torch.full((self.count,), timesteps[0], device=self._model.device)
        schedule = NoiseSchedule(self._model.alphas_cumprod)
        return _Start(schedule.add_noise(self._denoised(self._drawn, [0.0])[0], noise, start), timesteps)

    def _latents(self, start: _Start, weight: float) -> torch.Tensor:
        """(3, count, C, h, w), float32: denoised at -weight, 0 and weight."""
        return self._denoised(start, [-weight, 0.0, weight]).float()

    def _denoised(self, start: _Start, weights: Sequence[float]) -> torch.Tensor:
        """(len(weights), count, C, h, w): each picture with the LoRA at each multiplier."""
        items = [(w, n) for w in dict.fromkeys(weights) if w not in start.seen for n in range(self.count)]

        def part(chunk: Sequence[tuple[float, int]]) -> torch.Tensor:
            numbers = [number for _, number in chunk]
            multipliers = torch.tensor([weight for weight, _ in chunk], device=self._model.device)
            plain = Conditions.cat([self._conds[number] for number in numbers])
            cond = self._conds_at([self._prompts[n] for n in numbers], plain, multipliers)
            guidance = self._guidance
            if guidance:
                uncond = self._conds_at([""] * len(numbers), guidance.uncond.expand(len(numbers)), multipliers)
                guidance = replace(guidance, uncond=uncond)
            return ddim(
                self._model, start.noisy[numbers], cond, start.timesteps, network=self._network,
                multipliers=multipliers, guidance=guidance,
            )  # fmt: skip

        if items:
            at_once = samples_at_once(*start.noisy.shape[-2:]) // (2 if self._guidance else 1)
            drawn = torch.cat(in_parts(part, items, at_once))
            start.seen.update(zip([weight for weight, _ in items[:: self.count]], drawn.split(self.count), strict=True))
        return torch.stack([start.seen[weight] for weight in weights])

    def _conds_at(self, texts: Sequence[str], plain: Conditions, multipliers: torch.Tensor) -> Conditions:
        """The conditions of prompts as the LoRA makes them, of which `plain` are those without it."""
        return conds_at(self._model, list(texts), plain, self._network, multipliers)


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

    It is denoised without the LoRA and at both signs of each weight looked at; and it is drawn at -1, 0 and 1, which
    are the same pictures where a kind is looked at from noise on. Guidance takes two passes a step.
    """
    weights = 1 + 2 * (MOST_LOOKS if config.calibrate else 1)
    if config.kind.noised == 1:
        return weights * steps * (2 if _is_guided(config) else 1)
    return 3 * steps + weights * _rest_steps(steps)


def _is_guided(config: TrainConfig) -> bool:
    """Whether new pictures are drawn with guidance, as a person draws: a kind looked at from noise on, with a prompt.

    Guidance decides what becomes of a shift: docs/method.md, "What guidance makes of it".
    """
    has_prompt = bool(config.preview_prompt or config.prompt)
    return config.kind.noised == 1 and has_prompt and config.preview_cfg_scale > 1


def _rest_steps(steps: int) -> int:
    """The DDIM steps for a noised picture, where one from noise gets `steps`."""
    return (steps + 1) // 2


def prompts(config: TrainConfig, count: int) -> list[str]:
    """The previews' prompts, or PROMPTS where there are none.

    With guidance all have one, without it every second one: the others are empty.
    """
    spacing = 1 if _is_guided(config) else 2
    named = preview_prompts(config, math.ceil(count / spacing))
    mixed = [""] * count
    mixed[::spacing] = [prompt or PROMPTS[number % len(PROMPTS)] for number, prompt in enumerate(named)]
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
