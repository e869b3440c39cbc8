"""Calibration of a finished LoRA: weight 1 becomes the one at which it reproduces the difference of two pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.diffusion.host import Host, Model, lora_modules
from lib_addift.diffusion.latents import LatentPair, encode_pair
from lib_addift.errors import TrainingError
from lib_addift.evaluation.preview import preview_strip
from lib_addift.evaluation.round_trip import LEARNT, RoundTrip, round_trip
from lib_addift.lora.file import read_lora, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.source import file_hash
from lib_addift.lora.tools import Output, tool_metadata

# The round trip tries multiples of the training multiplier. Most LoRAs act at weights from 0.25 to 3.5, which are those
# of the first of these multipliers; the others are for the few that are weaker or stronger.
_SPANS = (0.25, 2.0, 0.03)


@dataclass(frozen=True)
class Calibrated:
    """A calibrated LoRA file.

    `weight` is the weight of the old file that is weight 1 of this one; `recovery` is the share of the difference that
    it reproduces there, 0 to 1.
    """

    path: Path
    weight: float
    recovery: float

    @property
    def tag(self) -> str:
        return f"<lora:{self.path.stem}:1>"

    @property
    def verdict(self) -> str:
        turned = "The LoRA made the opposite change, so it was turned round. " if self.weight < 0 else ""
        return (
            f"{turned}What was weight {self.weight:.3g} is now weight 1: it reproduces {self.recovery:.0%} of the "
            "difference of the two pictures."
        )


def calibrate(host: Host, lora: Path, pair: ImagePair, output: Output, config: TrainConfig) -> Calibrated:
    """Write the file `lora` to `output`, scaled so that weight 1 reproduces the difference of `pair`.

    The host's model is locked meanwhile. `config` has the settings of the encoding, the round trip and the strip, and
    `strength`. Raises HostError when there is no model, LoraFileError for a LoRA that is not for this model, and
    TrainingError when the LoRA reproduces next to nothing of the difference.
    """
    tensors, metadata = read_lora(lora)
    with host.exclusive(precision=config.precision):
        latents = encode_pair(host, pair, config)
        network = LoraNetwork.over(lora_modules(host), tensors).to(host.device)
        with network.attach():
            trip = _best_round_trip(host, network, latents, config)
            if trip.recovery < LEARNT:
                raise TrainingError(
                    f"'{lora.name}' reproduces {trip.recovery:.0%} of the difference of these pictures at any weight, "
                    "so nothing was saved: choose two pictures that differ in what the LoRA does."
                )
            weight = config.strength * trip.weight
            strip = preview_strip(host, network, latents, config, weight)
        report = {
            "operation": "calibrate",
            "files": [f"{lora.name} (weight {weight:.6g}, sha256 {file_hash(lora)})"],
            "recovery": round(trip.recovery, 4),
            "best_weight": round(trip.weight, 6),
            "calibrated": True,
            "model": host.model_title,
        }
        save_lora(
            output.path, network.tensors(weight), {**metadata, **tool_metadata("calibrate", output.path.stem, report)},
            precision=output.precision, preview=strip, card_versions=host.card_versions, overwrite=output.overwrite,
        )  # fmt: skip
        host.refresh_loras(output.path)
    return Calibrated(output.path, weight, trip.recovery)


def _best_round_trip(model: Model, network: LoraNetwork, pair: LatentPair, config: TrainConfig) -> RoundTrip:
    """The round trip with the highest recovery.

    Further ranges of weights are tried while the recovery is low, or the best weight is at an end of those tried.
    """
    best: RoundTrip | None = None
    for span in _SPANS:
        found = round_trip(model, network, [pair], dataclasses.replace(config, train_multiplier=span))
        best = found if best is None or found.recovery > best.recovery else best
        peak = max(best.curve, key=lambda point: point[1])
        is_at_end = peak in (best.curve[0], best.curve[-1]) or abs(best.weight) < span
        if best.recovery >= LEARNT and not is_at_end:
            break
    assert best is not None
    return best
