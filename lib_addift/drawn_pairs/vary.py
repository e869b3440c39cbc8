"""More pairs from one: both pictures noised alike, and denoised alike under other words."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lib_addift.config.prompts import VARIED_PROMPTS, check_alternatives, choose_alternatives
from lib_addift.data.mask import dilated
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.memory import in_parts
from lib_addift.diffusion.sampler import ddim, ddim_timesteps
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.drawn_pairs.choose import change_cells, most_different_first
from lib_addift.drawn_pairs.decode import as_drawn, drawn_pairs
from lib_addift.drawn_pairs.pair import Drawing, DrawnPair, DrawSettings, check_count
from lib_addift.drawn_pairs.sampling import guided, noise_of, pairs_at_once

STRENGTHS = (0.65, 0.75, 0.85)  # of the noise; less keeps the picture, more loses the difference
_TRIES = 4  # pairs drawn for each that is wanted
_KEPT = 0.55  # of `kept_difference`, below which the difference is lost
_AREA = 0.2  # of the strongest cell's change: what lies above is the first pair's area


@dataclass(frozen=True)
class Variation:
    """How one pair is made from the first: the noise, how much of it, and the words."""

    seed: int
    strength: float
    prompt: str


def vary(
    model: Model,
    original: np.ndarray,
    target: np.ndarray,
    *,
    count: int,
    settings: DrawSettings,
    prompts: Sequence[str] = VARIED_PROMPTS,
    own_prompt: str = "",
) -> Iterator[Drawing]:
    """Draw up to `count` pairs that show the difference of this one on other pictures.

    The caller holds the model (`Model.exclusive`). The result begins with the pair itself, then come the pairs that
    differ most from those before them; there are fewer than `count` when the difference is kept in fewer.

    Args:
        original: (H, W, 3) uint8, RGB; H and W multiples of 64.
        target: the same shape.
        count: of pairs, the first one not counted.
        prompts: the words under which they are drawn, in turn; they may have alternatives, {black|red}.
        own_prompt: what both pictures show, in words; it stands before each of `prompts` and is the pair's own caption.

    Raises:
        ConfigError: `count` or a prompt cannot be used.
    """
    check_count(count)
    for prompt in (*prompts, own_prompt):
        check_alternatives(prompt)
    latents = model.encode_images(np.stack([original, target])).float()
    at_once = max(1, pairs_at_once((latents.shape[-2], latents.shape[-1])) // 2)  # two pictures for each
    first = as_drawn(original, target, (own_prompt, own_prompt), settings.seed)
    variations = planned(count * _TRIES, settings.seed, prompts or VARIED_PROMPTS, own_prompt)
    drawn: list[DrawnPair] = []
    text = "drawing variations of the pair"
    yield Drawing(text, 0, len(variations), (first,))
    for strength in STRENGTHS:  # those of one strength share their timesteps, and so a pass
        alike = [each for each in variations if each.strength == strength]
        for start in range(0, len(alike), at_once):
            some = alike[start : start + at_once]
            parts = in_parts(lambda part: draw_variations(model, latents, part, settings), some)
            drawn += [pair for part in parts for pair in part]
            kept = _best(first, drawn, count)
            shown = tuple(most_different_first([first, *kept]))
            yield Drawing(text, len(drawn), len(variations), shown, len(drawn) - len(kept))


def planned(count: int, seed: int, prompts: Sequence[str], own_prompt: str = "") -> list[Variation]:
    """So many variations: the prompts in a drawn order, again and again; the strengths in turn."""
    rng = random.Random(seed)
    order: list[str] = []
    while len(order) < count:
        order += rng.sample(list(prompts), len(prompts))
    return [
        Variation(seed + n, STRENGTHS[n % len(STRENGTHS)], _joined(own_prompt, prompt, seed + n))
        for n, prompt in enumerate(order[:count])
    ]


@torch.no_grad()
def draw_variations(
    model: Model, latents: torch.Tensor, variations: Sequence[Variation], settings: DrawSettings
) -> list[DrawnPair]:
    """Draw these variations, all of one strength, of the pair whose `latents` are (2, C, h, w), in one batch.

    Source of drawing from a noised picture: Meng et al. 2021 (SDEdit), algorithm 1.
    """
    strength, seeds = variations[0].strength, [each.seed for each in variations]
    timesteps = ddim_timesteps(max(1, round(settings.steps * strength)), strength)
    prompts = [each.prompt for each in variations]
    conds = model.encode_prompts([*prompts, settings.negative_prompt]).float()
    size = (latents.shape[-2], latents.shape[-1])
    noise = noise_of(model, seeds, size).repeat(2, 1, 1, 1)  # the same for both pictures
    clean = latents.repeat_interleave(len(variations), dim=0)
    schedule = NoiseSchedule(model.alphas_cumprod)
    noisy = schedule.add_noise(clean, noise, torch.full((len(clean),), timesteps[0], device=clean.device))
    guidance = guided(conds[-1:], settings.guidance)
    originals, targets = ddim(model, noisy, conds[:-1].repeat(2), timesteps, guidance=guidance).chunk(2)
    return drawn_pairs(model, (originals, targets), [(prompt, prompt) for prompt in prompts], seeds)


def _best(first: DrawnPair, drawn: Sequence[DrawnPair], count: int) -> list[DrawnPair]:
    """At most `count` of the pairs: those that keep the first pair's difference, the surest first."""
    kept = [(kept_difference(first, pair), pair) for pair in drawn]
    kept = sorted((each for each in kept if each[0] >= _KEPT), key=lambda each: -each[0])
    return [pair for _, pair in kept[:count]]


def kept_difference(first: DrawnPair, pair: DrawnPair) -> float:
    """0 to 1: how much of the first pair's difference another keeps, by its size and by where it lies.

    The size counts up to the first pair's; of the change, what lies in the first pair's area counts.
    """
    cells = change_cells(first.original, first.target)
    area = dilated(cells > _AREA * cells.max(), 1)
    own, other = (float((each * area).sum()) / max(float(each.sum()), 1e-9) for each in (cells, _cells(pair)))
    return min(1.0, pair.size / max(first.size, 1e-9)) * min(1.0, other / max(own, 1e-9))


def _cells(pair: DrawnPair) -> np.ndarray:
    return change_cells(pair.original, pair.target)


def _joined(own_prompt: str, prompt: str, seed: int) -> str:
    parts = (choose_alternatives(each, seed) for each in (own_prompt, prompt))
    return ", ".join(part for part in parts if part)
