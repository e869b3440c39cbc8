"""The one place where a request is checked, before any work starts: its name, settings and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lib_addift.config.settings import TrainConfig
from lib_addift.config.timesteps import BY_SIZE, lowest_timestep
from lib_addift.config.validation import check_text
from lib_addift.data.augment import is_worth_mirroring
from lib_addift.data.checks import examine
from lib_addift.data.pairs import ImagePair, PairSource, load_source
from lib_addift.errors import ConfigError, PictureError
from lib_addift.lora.file import lora_path, read_lora
from lib_addift.training.events import PreparedPairs, Request
from lib_addift.training.methods import check_method, method_for_single_pictures, method_of
from lib_addift.training.optimizer import check_optimizer


def check_request(request: Request, lora_dir: Path, picture_side: int | None = None) -> PreparedPairs:
    """Open, check and fit the pictures of a request that a LoRA folder can take; what a run then trains on.

    `picture_side` is the host's, for the doctor. Writes nothing. Raises LoraFileError for the name or
    the folder, ConfigError and PictureError.
    """
    lora_path(lora_dir, request.name, overwrite=request.overwrite)
    check_sources(request.config, request.pairs)
    pairs = tuple(_load(source, request.config) for source in request.pairs)
    check_optimizer(request.config)
    return PreparedPairs(pairs, tuple(examine(pair, picture_side) for pair in pairs))


def check_sources(config: TrainConfig, sources: Sequence[PairSource]) -> None:
    """Raises ConfigError, PictureError or LoraFileError when the method cannot be used on these pictures."""
    check_method(config)
    for source in sources:
        for name in ("original_prompt", "target_prompt"):
            check_text(name, getattr(source, name))
    singles = [source for source in sources if source.is_single]
    if singles and method_of(config).needs_pairs:
        raise ConfigError(
            f"method = {config.method} needs pairs, and '{singles[0].name}' is a single picture: choose method = "
            f"{method_for_single_pictures()}, or give each picture its other one."
        )
    if all(source.is_prior for source in sources):
        raise PictureError("there are only regularisation pictures: add pictures to learn from.")
    if config.first_lora:
        read_lora(Path(config.first_lora))


def fitted(request: Request, pairs: Sequence[ImagePair]) -> Request:
    """The request with what its settings leave to its pictures, decided."""
    config = request.config
    if config.min_timestep == BY_SIZE:
        config = replace(config, min_timestep=max(lowest_timestep(*pair.original.shape[1::-1]) for pair in pairs))
    if config.mirror == "auto":
        learnt = [pair for source, pair in zip(request.pairs, pairs, strict=True) if not source.is_prior]
        is_mirrored = len(learnt) == 1 and is_worth_mirroring(learnt[0])
        config = replace(config, mirror="on" if is_mirrored else "off")
    return replace(request, config=config)


def _load(source: PairSource, config: TrainConfig) -> ImagePair:
    try:
        return load_source(source, config)
    except PictureError as error:
        if not source.name:
            raise
        raise PictureError(f"{'picture' if source.is_single else 'pair'} '{source.name}': {error}") from error
