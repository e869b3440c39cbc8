"""Pairs from words: two prompts, each drawn from the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lib_addift.config.prompts import choose_alternatives, phrases, shared_caption
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.memory import in_parts
from lib_addift.diffusion.sampler import ddim_timesteps
from lib_addift.drawn_pairs.choose import good_pairs
from lib_addift.drawn_pairs.decode import drawn_pairs
from lib_addift.drawn_pairs.mask import masks_from_prompts
from lib_addift.drawn_pairs.pair import Drawing, DrawnPair, DrawSettings, check_count
from lib_addift.drawn_pairs.sampling import draw, draw_beside, guided, noise_of, pairs_at_once
from lib_addift.errors import ConfigError

_TRIES = 3  # pairs drawn at most for each that is wanted


@dataclass(frozen=True)
class Words:
    """The prompts of one pair and the seed of its noise."""

    original: str
    target: str
    seed: int

    @classmethod
    def of(cls, original: str, target: str, seed: int) -> Words:
        """The alternatives of this seed. Raises ConfigError for unbalanced braces."""
        return cls(choose_alternatives(original, seed), choose_alternatives(target, seed), seed)

    @property
    def caption(self) -> str:
        """What both prompts say: the words of the change are left out, so that the LoRA and not they brings it."""
        return shared_caption(self.original, self.target)


def from_words(model: Model, original: str, target: str, *, count: int, settings: DrawSettings) -> Iterator[Drawing]:
    """Draw pairs from two prompts, which may have alternatives; the caller holds the model (`Model.exclusive`).

    Pair n starts both pictures from the noise of `settings.seed` + n. Pairs that show too little of the change are
    replaced by further seeds, at most three times `count` pairs in all. The last Drawing has the good pairs, at most
    `count`, and fewer when there are not so many.

    Raises:
        ConfigError: the prompts are the same, have unbalanced braces, or make no difference in any picture.
    """
    check_count(count)
    _check_words(original, target)
    drawn: list[DrawnPair] = []
    at_once = pairs_at_once(_latent_size(model, settings))
    wanted = count
    yield Drawing("drawing pairs", 0, wanted)
    while len(drawn) < wanted:
        numbers = range(len(drawn), min(wanted, len(drawn) + at_once))
        words = [Words.of(original, target, settings.seed + number) for number in numbers]
        drawn += [pair for part in in_parts(lambda part: draw_words(model, part, settings), words) for pair in part]
        good = good_pairs(drawn)
        missing = count - len(good)
        if len(drawn) == wanted and missing > 0:
            wanted = min(_TRIES * count, wanted + missing)
        yield Drawing("drawing pairs", len(drawn), wanted, tuple(good[:count]), len(drawn) - len(good))
    if not good:
        raise ConfigError(
            f"the prompts '{original}' and '{target}' make no difference that can be seen in {len(drawn)} pairs: use "
            "words that the checkpoint knows, or a higher guidance."
        )


@torch.no_grad()
def draw_words(model: Model, words: Sequence[Words], settings: DrawSettings) -> list[DrawnPair]:
    """Draw these pairs in one batch."""
    prompts = [*(each.original for each in words), *(each.target for each in words), settings.negative_prompt]
    conds = model.encode_prompts(prompts).float()  # in one call, so that they have the same length
    first, second, negative = conds[: len(words)], conds[len(words) : -1], conds[-1:]
    guidance = guided(negative, settings.guidance)
    seeds = [each.seed for each in words]
    noise = noise_of(model, seeds, _latent_size(model, settings))
    way = draw(model, noise, first, ddim_timesteps(settings.steps), guidance)
    mask = torch.ones_like(noise[:, :1])
    if settings.blend == "auto":
        mask = masks_from_prompts(model, way.clean, first, second, seeds)
    targets = draw_beside(model, way, second, mask, guidance)
    captions = [(each.caption, each.caption) for each in words]
    return drawn_pairs(model, (way.clean, targets), captions, seeds, mask)


def _check_words(original: str, target: str) -> None:
    words = Words.of(original, target, 0)
    if phrases(words.original) == phrases(words.target):
        raise ConfigError(f"both prompts are '{words.original}', so there is no difference: change a word of one.")


def _latent_size(model: Model, settings: DrawSettings) -> tuple[int, int]:
    return settings.height // model.pixels_per_latent, settings.width // model.pixels_per_latent
