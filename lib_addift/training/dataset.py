"""What a run learns from and is measured on, in the model's terms."""

from __future__ import annotations

import math
from collections.abc import Container, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.data.augment import views, views_count
from lib_addift.data.pairs import ImagePair, PairSource
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.latents import LatentPair, Role, encode_pair, unrelated_pairs
from lib_addift.errors import ConfigError, PictureError
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Stage
from lib_addift.training.methods import total_steps

_HELD_OUT_OF = 4  # one pair of so many, when there are at least so many


@dataclass
class Dataset:
    """Encoded pairs by what they are for."""

    views: int = 1  # of each pair that is learnt from
    learnt: list[LatentPair] = field(default_factory=list)  # every view of every pair
    held_out: list[LatentPair] = field(default_factory=list)
    regularisation: list[LatentPair] = field(default_factory=list)  # what is to stay as it is

    @property
    def pairs(self) -> list[LatentPair]:
        """Those that are learnt from, as they are, without their other views."""
        return self.learnt[:: self.views]

    @property
    def differing(self) -> list[LatentPair]:
        """Those of `pairs` that are no single pictures: on these a LoRA can be measured."""
        return [pair for pair in self.pairs if not torch.equal(pair.original.latents, pair.target.latents)]

    @property
    def all_learnt(self) -> list[LatentPair]:
        """What the turns of a plan count."""
        return [*self.learnt, *self.regularisation]


def encode_dataset(
    host: Host, pairs: Sequence[ImagePair], sources: Sequence[PairSource], config: TrainConfig
) -> Generator[Stage, None, Dataset]:
    """Pictures and prompts, each through the model once; `pairs` are the loaded `sources`."""
    left_out = _left_out(config, sources)
    dataset = Dataset(views_count(config))
    for index, (pair, source) in enumerate(zip(pairs, sources, strict=True)):
        yield Stage("encoding the pictures", index, len(pairs) if len(pairs) > 1 else 0)
        prompts = config.prompts(source.original_prompt, source.target_prompt)
        if source.is_prior:
            prior = encode_pair(host, pair, config, prompts, source.weight * config.prior_loss_weight)
            dataset.regularisation.append(replace(prior, role=Role.PRIOR))
        elif index in left_out:
            dataset.held_out.append(encode_pair(host, pair, config, prompts, source.weight))
        else:
            encoded = (encode_pair(host, view, config, prompts, source.weight) for view in views(pair, config))
            dataset.learnt += [replace(view, repeats=source.repeats) for view in encoded]
    if config.self_regularisation:
        dataset.regularisation += unrelated_pairs(host, dataset.learnt[0], config)
    return dataset


def check_method(config: TrainConfig, sources: Sequence[PairSource]) -> None:
    """Raises ConfigError, PictureError or LoraFileError when the method cannot be used on these pictures."""
    singles = [source for source in sources if source.is_single]
    if singles and config.method != "lora":
        raise ConfigError(
            f"method = {config.method} needs pairs, and '{singles[0].name}' is a single picture: choose method = lora, "
            "or give each picture its other one."
        )
    if all(source.is_prior for source in sources):
        raise PictureError("there are only regularisation pictures: add pictures to learn from.")
    if config.first_lora:
        read_lora(Path(config.first_lora))


def steps_of(config: TrainConfig, sources: Sequence[PairSource]) -> int:
    """The optimizer steps of all phases of training on these pictures."""
    return total_steps(config, _learnt(config, sources))


def with_usual_steps(config: TrainConfig, sources: Sequence[PairSource], given: Container[str]) -> TrainConfig:
    """Where `max_train_steps` is not among the `given` settings: the root of the number of pairs times that for one.

    Measured: with the steps of one pair, four leave a LoRA that changes what it should not, and with the double one
    that is better than from a single pair (docs/lab.md).
    """
    if config.method != "addift" or "max_train_steps" in given:
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
