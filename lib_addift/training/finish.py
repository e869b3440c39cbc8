"""The end of a run: the LoRA is proved, gets its weight, is drawn and saved."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import PairReport
from lib_addift.diffusion.host import Host
from lib_addift.errors import TrainingError
from lib_addift.evaluation.preview import preview_strip
from lib_addift.evaluation.round_trip import LEARNT, RoundTrip, recovery_at, round_trip, round_trip_pictures
from lib_addift.lora.file import build_metadata, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.dataset import Dataset
from lib_addift.training.events import Request, Stage

PROVEN_PAIRS = 4  # the round trip takes about as long as training does, for each pair


@dataclass(frozen=True)
class Proved:
    """What was found out about a LoRA."""

    proof: RoundTrip
    is_calibrated: bool  # whether the proof set the weight: not where it found next to nothing
    weight: float  # the multiplier of training that becomes weight 1
    held_out: float | None  # recovery on pairs that were left out of training, where some were
    strip: Image.Image
    pictures: Image.Image  # the round trip

    def to_dict(self) -> dict[str, Any]:
        """For the file's metadata."""
        return {
            "recovery": round(self.proof.recovery, 4),
            "verdict": self.proof.verdict,
            "best_weight": round(self.proof.weight, 6),
            "calibrated": self.is_calibrated,
            **({} if self.held_out is None else {"held_out_recovery": round(self.held_out, 4)}),
        }


def check_alive(network: LoraNetwork) -> None:
    """Raises TrainingError when the LoRA would change nothing or everything."""
    grown = [p.detach().norm() for layer in network.layers.values() for p in layer.zero_init_parameters()]
    if not all(torch.isfinite(p).all() for p in network.parameters()):
        raise TrainingError("the LoRA's weights are not finite, so it was not saved: lower the learning rate.")
    if not torch.stack(grown).any():
        raise TrainingError(
            "training changed nothing, so no LoRA was saved: every step was skipped or had no gradient. "
            "Choose precision fp32 or bf16, or a larger mask."
        )


def prove(host: Host, network: LoraNetwork, dataset: Dataset, config: TrainConfig) -> Generator[Stage, None, Proved]:
    """Measure the LoRA as it was trained on its pairs, decide on its weight and draw it at that."""
    shown, held_out = dataset.pairs[0], None
    with network.attach():
        proof = RoundTrip.without_pairs()
        if pairs := dataset.differing:
            yield Stage("proving it: the round trip")
            proof = round_trip(host, network, pairs[:: math.ceil(len(pairs) / PROVEN_PAIRS)], config)
        is_calibrated = config.calibrate and proof.recovery >= LEARNT
        trained_weight = proof.weight if is_calibrated else 1.0
        if dataset.held_out:
            held_out = recovery_at(host, network, dataset.held_out, config, trained_weight)
        weight = config.strength * trained_weight
        yield Stage("drawing the preview")
        strip = preview_strip(host, network, shown, config, weight)
        pictures = round_trip_pictures(host, network, shown, config, weight)
    return Proved(proof, is_calibrated, weight, held_out, strip, pictures)


def save(
    host: Host,
    request: Request,
    name: str,
    tensors: Mapping[str, torch.Tensor],
    proved: Proved,
    *,
    steps: int,
    pairs: Sequence[PairReport],
    held_out_pairs: int,
) -> Path:
    """Write the LoRA's file with all that is known of it. Raises LoraFileError."""
    config, first = request.config, pairs[0]
    report = {"steps": steps, **proved.to_dict(), "pair": first.to_dict()}
    if len(pairs) > 1:
        report["pairs"] = len(pairs)
    if held_out_pairs:
        report["held_out_pairs"] = held_out_pairs
    metadata = build_metadata(
        config,
        name=name,
        model_title=host.model_title,
        model_hash=host.model_hash,
        prediction_type=host.prediction_type,
        clip_skip=host.clip_skip,
        report=report,
        tensors=tensors,
        resolution=(first.width, first.height),
        steps=steps,
    )
    return save_lora(
        host.lora_dir / f"{name}.safetensors", tensors, metadata, precision=config.save_precision,
        preview=proved.strip, overwrite=request.overwrite or name != request.name,  # a step's name was free
    )  # fmt: skip
