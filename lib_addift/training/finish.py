"""The end of a run: the LoRA is measured, gets its weight, is drawn and saved."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import PairReport
from lib_addift.diffusion.host import Host, Model
from lib_addift.diffusion.latents import LatentPair
from lib_addift.errors import TrainingError
from lib_addift.evaluation.new_pictures import NewPictures, Painter, picture_grid
from lib_addift.evaluation.preview import preview_strip
from lib_addift.evaluation.round_trip import RoundTrip, round_trip, round_trip_at, round_trip_pictures
from lib_addift.evaluation.weight import Choice, choose, fixed_weight, without_pictures
from lib_addift.lora.file import build_metadata, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.dataset import Dataset
from lib_addift.training.events import Request, Result, Stage
from lib_addift.training.methods import method_of
from lib_addift.training.passes import learning_passes

MEASURED_PAIRS = 4  # the round trip takes about as long as training does, for each pair
NEW_PICTURES_SHARE = 0.5  # of the time of training, that new pictures may take


def check_changes_something(network: LoraNetwork) -> None:
    """Raises TrainingError when the LoRA would change nothing or everything."""
    grown = [p.detach().norm() for layer in network.layers.values() for p in layer.zero_init_parameters()]
    if not all(torch.isfinite(p).all() for p in network.parameters()):
        raise TrainingError("the LoRA's weights are not finite, so it was not saved: lower the learning rate.")
    if not torch.stack(grown).any():
        raise TrainingError(
            "training changed nothing, so no LoRA was saved: every step was skipped or had no gradient. "
            "Choose precision fp32 or bf16, or a larger mask."
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of a LoRA, and the weight that was chosen by it."""

    trip: RoundTrip
    choice: Choice
    grid: Image.Image | None = None  # the new pictures
    search: Mapping[str, Any] = field(default_factory=dict)  # where it was the best of several: what each reached


def picture_budget(config: TrainConfig, pairs: int) -> float:
    """The passes that new pictures may take after training on so many pairs; for each recipe of a search the same."""
    return NEW_PICTURES_SHARE * learning_passes(replace(config, search=False), pairs)


def measure(
    model: Model, network: LoraNetwork, dataset: Dataset, config: TrainConfig, budget: float = 0.0
) -> Generator[Stage, None, Measured]:
    """Check the LoRA, measure it on its pairs and on new pictures, and decide on its weight.

    `budget`: passes that the new pictures may take, about; 0: as its own training allows. Raises TrainingError.
    """
    check_changes_something(network)
    budget = budget or picture_budget(config, len(dataset.learnt))
    with network.attach():
        trip, pairs = RoundTrip.without_pairs(), _measured(dataset)
        if pairs:
            yield Stage("evaluating it: the round trip")
            trip = _round_trip(model, network, pairs, config)
        if not (pairs and config.new_pictures):
            return Measured(trip, without_pictures(trip, config))
        yield Stage("evaluating it: new pictures")
        return Measured(trip, *_choose(model, network, dataset, trip, config, passes=budget))


def draw(
    model: Model,
    network: LoraNetwork,
    dataset: Dataset,
    config: TrainConfig,
    measured: Measured,
    *,
    path: Path,
    steps: int,
    seconds: float,
) -> Generator[Stage, None, Result]:
    """Draw the LoRA at the weight that was chosen.

    Returns what there is to say of the file `path`, which is not written yet. `seconds` are those of training.
    """
    trip, choice, shown, held_out = measured.trip, measured.choice, dataset.learnt[0], None
    with network.attach():
        if dataset.held_out:
            weight = choice.weight if fixed_weight(config) else choice.weight / config.strength
            held_out = round_trip_at(model, network, dataset.held_out, config, weight).recovery
        yield Stage("drawing the preview")
        strip = preview_strip(model, network, shown, config, choice.weight)
        pictures = round_trip_pictures(model, network, shown, config, choice.weight)
    return Result(
        path, steps, seconds, trip, choice.weight, held_out, choice.is_calibrated, choice.new,
        measured.search, strip=strip, pictures=pictures, grid=measured.grid,
    )  # fmt: skip


def _round_trip(model: Model, network: LoraNetwork, pairs: Sequence[LatentPair], config: TrainConfig) -> RoundTrip:
    """At the weight of the kind of LoRA, or, where that has none, at several."""
    if weight := fixed_weight(config):
        return round_trip_at(model, network, pairs, config, weight)
    return round_trip(model, network, pairs, config)


def _choose(
    model: Model, network: LoraNetwork, dataset: Dataset, trip: RoundTrip, config: TrainConfig, *, passes: float
) -> tuple[Choice, Image.Image]:
    """The weight, chosen with new pictures, and these at weights -1, 0 and 1."""
    begun = time.monotonic()
    painter = Painter(model, network, _measured(dataset), config, passes)
    choice, latents = choose(painter, trip, config)
    grid = picture_grid(model, latents)
    new = replace(choice.new, seconds=round(time.monotonic() - begun, 2))
    return replace(choice, new=new), grid


def _measured(dataset: Dataset) -> list[LatentPair]:
    """The pairs of the round trip: all, or some evenly spaced ones."""
    pairs = dataset.measurable
    return pairs[:: math.ceil(len(pairs) / MEASURED_PAIRS)] if pairs else []


def save(
    host: Host,
    request: Request,
    result: Result,
    tensors: Mapping[str, torch.Tensor],
    *,
    pairs: Sequence[PairReport],
    held_out_pairs: int,
) -> None:
    """Write the file of a result with all that is known of it. Raises LoraFileError."""
    config, first, name = request.config, pairs[0], result.path.stem
    report = {"steps": result.steps, **_figures(result), "pair": first.to_dict()}
    if len(pairs) > 1:
        report["pairs"] = len(pairs)
    if held_out_pairs:
        report["held_out_pairs"] = held_out_pairs
    method = method_of(config)
    metadata = build_metadata(
        config,
        name=name,
        model_title=host.model_title,
        model_hash=host.model_hash,
        prediction_type=host.prediction_type,
        family=host.family,
        zero_snr=host.zero_snr,
        clip_skip=host.clip_skip,
        learnt=f"{'The difference of two pictures' if method.needs_pairs else 'Pictures'}, learnt with {method.label}",
        comment=method.comment,
        report=report,
        tensors=tensors,
        resolution=(first.width, first.height),
        steps=result.steps,
    )
    save_lora(
        result.path, tensors, metadata, precision=config.save_precision, preview=result.strip,
        card_versions=host.card_versions,
        overwrite=request.overwrite or name != request.name,  # a step's name was free
    )  # fmt: skip


def _figures(result: Result) -> dict[str, Any]:
    """What was measured, for the file's metadata."""
    trip = result.round_trip
    return {
        "recovery": round(trip.recovery, 4),
        "verdict": result.verdict,
        "best_weight": round(trip.weight, 6),
        "calibrated": result.is_calibrated,
        **_new_picture_figures(result.new_pictures),
        **({} if result.held_out is None else {"held_out_recovery": round(result.held_out, 4)}),
        **({"search": result.search} if result.search else {}),
    }


def _new_picture_figures(new: NewPictures) -> dict[str, Any]:
    """What was seen on new pictures, where some were drawn."""
    if not new.count:
        return {}
    figures = {"count": new.count, "reach": new.reach, "spread": new.spread}
    return {"new_pictures": {**figures, "sizes": list(new.sizes), "spreads": list(new.spreads)}}
