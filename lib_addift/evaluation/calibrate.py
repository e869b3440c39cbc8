"""Another weight 1 for a finished LoRA: the one at which it reproduces the difference of two given pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.diffusion.host import Host, lora_modules
from lib_addift.diffusion.latents import LatentPair, encode_pair
from lib_addift.errors import TrainingError
from lib_addift.evaluation.preview import preview_strip
from lib_addift.evaluation.round_trip import LEARNT, RoundTrip, round_trip
from lib_addift.lora.file import read_lora, save_lora
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.source import file_hash
from lib_addift.lora.tools import Output, tool_metadata

# Training multipliers to whose multiples the round trip looks: most LoRAs act at weights from 0.25 to 3.5, and few are
# so weak or so strong that they need the others.
_SPANS = (0.25, 2.0, 0.03)


@dataclass(frozen=True)
class Calibrated:
    """A LoRA file that was written. `weight` is the weight of the old file that is weight 1 of the new one."""

    path: Path
    weight: float
    recovery: float

    @property
    def tag(self) -> str:
        return f"<lora:{self.path.stem}:1>"

    @property
    def verdict(self) -> str:
        return (
            f"What was weight {self.weight:.3g} is now weight 1: it reproduces {self.recovery:.0%} of the difference "
            "of the two pictures."
        )


def calibrate(host: Host, lora: Path, pair: ImagePair, output: Output, config: TrainConfig) -> Calibrated:
    """Write `lora` anew, scaled so that weight 1 reproduces the difference of `pair`; takes the host's model meanwhile.

    Of `config` it uses what encoding, the round trip, the strip and `strength` need. Raises LoraFileError for a LoRA
    that is not for this model, and TrainingError when it reproduces next to nothing.
    """
    tensors, metadata = read_lora(lora)
    with host.exclusive(precision=config.precision):
        latents = encode_pair(host, pair, config)
        network = LoraNetwork.over(lora_modules(host), tensors).to(host.device)
        with network.attach():
            proof = _prove(host, network, latents, config)
            if proof.recovery < LEARNT:
                raise TrainingError(
                    f"'{lora.name}' reproduces {proof.recovery:.0%} of the difference of these pictures at any weight, "
                    "so nothing was saved: choose two pictures that differ in what the LoRA does."
                )
            weight = config.strength * proof.weight
            strip = preview_strip(host, network, latents, config, weight)
        report = {
            "operation": "calibrate",
            "files": [f"{lora.name} (weight {weight:.6g}, sha256 {file_hash(lora)})"],
            "recovery": round(proof.recovery, 4),
            "best_weight": round(proof.weight, 6),
            "calibrated": True,
            "model": host.model_title,
        }
        save_lora(
            output.path, network.tensors(weight), {**metadata, **tool_metadata("calibrate", output.path.stem, report)},
            precision=output.precision, preview=strip, overwrite=output.overwrite,
        )  # fmt: skip
        host.refresh_loras(output.path)
    return Calibrated(output.path, weight, proof.recovery)


def _prove(host: Host, network: LoraNetwork, pair: LatentPair, config: TrainConfig) -> RoundTrip:
    """The best round trip; where none is good, or the best weight lies at an end of those tried, others are tried."""
    best: RoundTrip | None = None
    for span in _SPANS:
        trip = round_trip(host, network, [pair], dataclasses.replace(config, train_multiplier=span))
        best = trip if best is None or trip.recovery > best.recovery else best
        peak = max(best.curve, key=lambda point: point[1])
        is_at_end = peak in (best.curve[0], best.curve[-1]) or abs(best.weight) < span
        if best.recovery >= LEARNT and not is_at_end:
            break
    assert best is not None
    return best
