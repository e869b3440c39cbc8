"""The main job from end to end: two pictures in, a LoRA file with its proof out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lib_addift.config import TrainConfig
from lib_addift.doctor import PairReport, examine
from lib_addift.encode import LatentPair, encode_pair
from lib_addift.errors import TrainingError
from lib_addift.hosts.base import Host
from lib_addift.lora import LoraNetwork, select_layers
from lib_addift.lora_file import build_metadata, lora_path, save_lora
from lib_addift.optim import make_optimizer
from lib_addift.pairs import PictureSource, load_pair
from lib_addift.plan import Turn, make_plan
from lib_addift.preview import preview_strip
from lib_addift.proof import LEARNT, RoundTrip, round_trip
from lib_addift.reference import predict_references
from lib_addift.trainer import StepReport, train


@dataclass(frozen=True)
class Request:
    """What a person asks for."""

    original: PictureSource
    target: PictureSource
    name: str
    config: TrainConfig
    overwrite: bool = False


@dataclass(frozen=True)
class Stage:
    """A part of the work other than a training step has begun or gone on."""

    text: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Result:
    """A LoRA file that was written, and what is known of it."""

    path: Path
    steps: int
    train_seconds: float
    round_trip: RoundTrip
    weight: float  # the multiplier of training that became weight 1
    strip: Image.Image


class TrainingRun:
    """One job on one host. Creating it checks everything that can be checked before work starts.

    Raises PictureError, LoraFileError, ConfigError, each before anything is written.
    """

    def __init__(self, host: Host, request: Request) -> None:
        self.host, self.request, self.config = host, request, request.config
        self.steps_done = 0
        self.train_seconds = 0.0
        self.results: list[Result] = []
        lora_path(host.lora_dir, request.name, overwrite=request.overwrite)
        self.pair = load_pair(request.original, request.target, request.config)
        self.pair_report: PairReport = examine(self.pair)
        make_optimizer(self.config, [torch.nn.Parameter(torch.zeros(1))], self.config.learning_rate)  # does it exist?
        self._network: LoraNetwork | None = None
        self._latents: LatentPair | None = None
        self._stopped = False

    def stop(self) -> None:
        """End after the current step; `events` then saves nothing. Safe to call from a signal handler."""
        self._stopped = True

    def events(self) -> Iterator[Stage | StepReport]:
        """Do the work. Results appear in `results`; the last one is the finished LoRA."""
        config = self.config
        with self.host.exclusive(gradient_checkpointing=config.gradient_checkpointing):
            yield Stage("encoding the pictures")
            self._latents = encode_pair(self.host, self.pair, config)
            plan = make_plan(config)
            references: dict[Turn, torch.Tensor] = {}
            total = len({turn for step in plan for turn in step})
            for turn, noise_pred in predict_references(self.host, [self._latents], plan, config.reference_batch_size):
                references[turn] = noise_pred
                yield Stage("asking the model", len(references), total)
                if self._stopped:
                    return
            modules = select_layers(self.host.unet, self.host.lora_name, layers=config.layers, blocks=config.blocks)
            self._network = LoraNetwork.create(modules, rank=config.rank, alpha=config.alpha, seed=config.seed)
            start = time.monotonic()
            with self._network.attach():
                steps = train(
                    self.host, self._network, pairs=[self._latents], plan=plan, references=references, config=config
                )
                for report in steps:
                    self.steps_done, self.train_seconds = report.step, time.monotonic() - start
                    yield report
                    if self._stopped:
                        return
                    if config.save_every and report.step % config.save_every == 0 and report.step < report.total:
                        yield from self._finish(self.step_name)
                yield from self._finish(self.request.name)

    @property
    def step_name(self) -> str:
        """The name under which an unfinished LoRA is kept."""
        return f"{self.request.name}-step{self.steps_done}"

    def keep(self) -> Iterator[Stage]:
        """After a stop: prove and save what was learnt so far as `step_name`."""
        if self._network is None or self.steps_done == 0:
            raise TrainingError("nothing was learnt yet, so there is nothing to keep: let at least one step finish.")
        with self.host.exclusive(), self._network.attach():
            yield from self._finish(self.step_name)

    def _finish(self, name: str) -> Iterator[Stage]:
        """Check, calibrate and save the LoRA as it is now."""
        assert self._network is not None and self._latents is not None
        _check_alive(self._network)
        yield Stage("proving it: the round trip")
        proof = round_trip(self.host, self._network, [self._latents], self.config)
        weight = self.config.strength * (proof.weight if self._is_calibrated(proof) else 1.0)
        yield Stage("drawing the preview")
        strip = preview_strip(self.host, self._network, self._latents, self.config, weight)
        yield Stage("saving")
        self.results.append(self._save(name, proof, weight, strip))

    def _is_calibrated(self, proof: RoundTrip) -> bool:
        """Whether `proof` sets the weight: not where it found next to nothing."""
        return self.config.calibrate and proof.recovery >= LEARNT

    def _save(self, name: str, proof: RoundTrip, weight: float, strip: Image.Image) -> Result:
        assert self._network is not None
        tensors = self._network.tensors(weight)
        height, width = self.pair.original.shape[:2]
        report = {
            "steps": self.steps_done,
            "recovery": round(proof.recovery, 4),
            "verdict": proof.verdict,
            "best_weight": round(proof.weight, 6),
            "calibrated": self._is_calibrated(proof),
            "pair": self.pair_report.to_dict(),
        }
        metadata = build_metadata(
            self.config,
            name=name,
            model_title=self.host.model_title,
            model_hash=self.host.model_hash,
            prediction_type=self.host.prediction_type,
            report=report,
            tensors=tensors,
            resolution=(width, height),
            steps=self.steps_done,
        )
        is_final = name == self.request.name
        overwrite = self.request.overwrite or not is_final
        path = save_lora(
            self.host.lora_dir / f"{name}.safetensors", tensors, metadata, precision=self.config.save_precision,
            preview=strip, overwrite=overwrite,
        )  # fmt: skip
        self.host.refresh_loras(path)
        return Result(path, self.steps_done, self.train_seconds, proof, weight, strip)


def _check_alive(network: LoraNetwork) -> None:
    """Raises TrainingError when the LoRA would change nothing or everything."""
    norms = torch.stack([layer.lora_up.detach().norm() for layer in network.layers.values()])
    if not all(torch.isfinite(p).all() for p in network.parameters()):
        raise TrainingError("the LoRA's weights are not finite, so it was not saved: lower the learning rate.")
    if not norms.any():
        raise TrainingError(
            "training changed nothing, so no LoRA was saved: every step was skipped or had no gradient. "
            "Choose precision fp32 or bf16, or a larger mask."
        )
