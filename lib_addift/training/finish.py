"""The end of a run: the LoRA is measured, gets its weight, is drawn and saved."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lib_addift.data.checks import PairReport
from lib_addift.diffusion.host import Host, Model
from lib_addift.errors import TrainingError
from lib_addift.evaluation.preview import preview_strip
from lib_addift.evaluation.round_trip import LEARNT, RoundTrip, recovery_at, round_trip, round_trip_pictures
from lib_addift.lora.file import build_metadata, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.dataset import Dataset
from lib_addift.training.events import Request, Result, Stage
from lib_addift.training.methods import method_of

MEASURED_PAIRS = 4  # the round trip takes about as long as training does, for each pair


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


def evaluate(
    model: Model, network: LoraNetwork, dataset: Dataset, request: Request, *, path: Path, steps: int, seconds: float
) -> Generator[Stage, None, Result]:
    """Measure the LoRA as it was trained on its pairs, decide on its weight and draw it at that.

    Returns what there is to say of the file `path`, which is not written yet. `seconds` are those of training.
    """
    config, shown, held_out = request.config, dataset.learnt[0], None
    with network.attach():
        trip = RoundTrip.without_pairs()
        if pairs := dataset.measurable:
            yield Stage("proving it: the round trip")
            trip = round_trip(model, network, pairs[:: math.ceil(len(pairs) / MEASURED_PAIRS)], config)
        is_calibrated = config.calibrate and trip.recovery >= LEARNT
        trained_weight = trip.weight if is_calibrated else 1.0
        if dataset.held_out:
            held_out = recovery_at(model, network, dataset.held_out, config, trained_weight)
        weight = config.strength * trained_weight
        yield Stage("drawing the preview")
        strip = preview_strip(model, network, shown, config, weight)
        pictures = round_trip_pictures(model, network, shown, config, weight)
    return Result(path, steps, seconds, trip, weight, held_out, is_calibrated, strip=strip, pictures=pictures)


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
        overwrite=request.overwrite or name != request.name,  # a step's name was free
    )  # fmt: skip


def _figures(result: Result) -> dict[str, Any]:
    """What was measured, for the file's metadata."""
    trip = result.round_trip
    return {
        "recovery": round(trip.recovery, 4),
        "verdict": trip.verdict,
        "best_weight": round(trip.weight, 6),
        "calibrated": result.is_calibrated,
        **({} if result.held_out is None else {"held_out_recovery": round(result.held_out, 4)}),
    }
