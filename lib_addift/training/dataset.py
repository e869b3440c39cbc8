"""The pairs of a run as the model sees them, each with its role: learnt from, held out, or regularisation."""

from __future__ import annotations

import math
from collections.abc import Container, Generator, Sequence
from dataclasses import dataclass, replace

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.data.augment import views, views_count
from lib_addift.data.pairs import ImagePair, PairSource
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.latents import LatentPair, Role, encode_pair, unrelated_pairs
from lib_addift.training.events import Stage
from lib_addift.training.methods import method_of, total_steps

_HELD_OUT_OF = 4  # one pair of so many, when there are at least so many


@dataclass(frozen=True)
class Dataset:
    """Encoded pairs: the views of those that are learnt from, those held out, then regularisation samples."""

    pairs: tuple[LatentPair, ...]
    views: int = 1  # of each pair that is learnt from; they stand one after the other

    def of(self, *roles: Role) -> list[LatentPair]:
        """The pairs with one of these roles, in order."""
        return [pair for pair in self.pairs if pair.role in roles]

    @property
    def training(self) -> list[LatentPair]:
        """What the samples of a plan count: every view of the pairs that are learnt from, then regularisation."""
        return [*self.of(Role.LEARN), *self.of(Role.KEEP, Role.PRIOR)]

    @property
    def learnt(self) -> list[LatentPair]:
        """The pairs that are learnt from as they are, without their other views."""
        return self.of(Role.LEARN)[:: self.views]

    @property
    def measurable(self) -> list[LatentPair]:
        """Those of `learnt` that are no single pictures: on these a LoRA can be measured."""
        return [pair for pair in self.learnt if not torch.equal(pair.original.latents, pair.target.latents)]

    @property
    def held_out(self) -> list[LatentPair]:
        return self.of(Role.HELD_OUT)


def encode_dataset(
    model: Model, pairs: Sequence[ImagePair], sources: Sequence[PairSource], config: TrainConfig
) -> Generator[Stage, None, Dataset]:
    """Pictures and prompts, each through the model once; `pairs` are the loaded `sources`."""
    left_out = _left_out(config, sources)
    encoded: list[LatentPair] = []
    for index, (pair, source) in enumerate(zip(pairs, sources, strict=True)):
        yield Stage("encoding the pictures", index, len(pairs) if len(pairs) > 1 else 0)
        prompts = config.prompts(source.original_prompt, source.target_prompt)
        if source.is_prior:
            prior = encode_pair(model, pair, config, prompts, source.weight * config.prior_loss_weight)
            encoded.append(replace(prior, role=Role.PRIOR))
        elif index in left_out:
            held_out = encode_pair(model, pair, config, prompts, source.weight)
            encoded.append(replace(held_out, role=Role.HELD_OUT))
        else:
            each_view = (encode_pair(model, view, config, prompts, source.weight) for view in views(pair, config))
            encoded += [replace(view, repeats=source.repeats) for view in each_view]
    dataset = Dataset(tuple(encoded), views_count(config))
    if config.self_regularisation:
        unrelated = unrelated_pairs(model, dataset.learnt[0], config)
        dataset = replace(dataset, pairs=(*dataset.pairs, *unrelated))
    return dataset


def steps_of(config: TrainConfig, sources: Sequence[PairSource]) -> int:
    """The optimizer steps of all phases of training on these pictures."""
    return total_steps(config, _learnt(config, sources))


def with_usual_steps(config: TrainConfig, sources: Sequence[PairSource], given: Container[str]) -> TrainConfig:
    """Where `max_train_steps` is not among the `given` settings: the root of the number of pairs times that for one.

    Measured: with the steps of one pair, four leave a LoRA that changes what it should not, and with the double one
    that is better than from a single pair (docs/lab.md).
    """
    if not method_of(config).supports.more_steps_for_sets or "max_train_steps" in given:
        return config
    steps = config.max_train_steps * math.sqrt(max(1, _learnt(config, sources)))
    return replace(config, max_train_steps=round(steps))


def _learnt(config: TrainConfig, sources: Sequence[PairSource]) -> int:
    return sum(not source.is_prior for source in sources) - len(_left_out(config, sources))


def _left_out(config: TrainConfig, sources: Sequence[PairSource]) -> list[int]:
    measurable = [index for index, source in enumerate(sources) if not (source.is_prior or source.is_single)]
    return [measurable[place] for place in held_out_pairs(config, len(measurable))]


def held_out_pairs(config: TrainConfig, pairs: int) -> range:
    """The indices of those of so many pairs that are left out of training, to measure on."""
    enough = config.hold_out and pairs >= _HELD_OUT_OF
    return range(_HELD_OUT_OF - 1, pairs, _HELD_OUT_OF) if enough else range(0)
