"""The main job from end to end: two pictures in, a LoRA file with its proof out."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lib_addift.config import TrainConfig
from lib_addift.doctor import PairReport, examine
from lib_addift.encode import LatentPair, encode_pair
from lib_addift.errors import HostError, TrainingError
from lib_addift.hosts.base import Host
from lib_addift.lora import LoraNetwork, select_layers
from lib_addift.lora_file import build_metadata, lora_path, save_lora
from lib_addift.optim import make_optimizer
from lib_addift.pairs import PictureSource, load_pair
from lib_addift.plan import Plan, Turn, make_plan
from lib_addift.preview import preview_strip
from lib_addift.proof import LEARNT, RoundTrip, round_trip, round_trip_pictures
from lib_addift.reference import predict_references
from lib_addift.trainer import StepReport, train

_MOST_SNAPSHOTS = 30


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


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The LoRA as it was after `step` steps, so that a person can look at it and save it later."""

    step: int
    tensors: Mapping[str, torch.Tensor]  # kohya keys, CPU
    strip: Image.Image


@dataclass(frozen=True)
class Result:
    """A LoRA file that was written, and what is known of it."""

    path: Path
    steps: int
    train_seconds: float
    round_trip: RoundTrip
    weight: float  # the multiplier of training that became weight 1
    strip: Image.Image
    pictures: Image.Image  # the round trip: each picture, without the LoRA, and at weight 1 or -1

    @property
    def tag(self) -> str:
        """What to write into a prompt."""
        return f"<lora:{self.path.stem}:1>"


Events = Generator[Stage | StepReport | Snapshot, None, None]


class TrainingRun:
    """One job on one host. Creating it checks everything that can be checked before work starts.

    A `watched` run yields a Snapshot every `config.preview_every` steps. Raises PictureError, LoraFileError or
    ConfigError, each before anything is written.
    """

    def __init__(self, host: Host, request: Request, *, watched: bool = False) -> None:
        self.host, self.request, self.config = host, request, request.config
        self.steps_done = 0
        self.train_seconds = 0.0
        self.snapshots: dict[int, Snapshot] = {}
        self.results: list[Result] = []
        lora_path(host.lora_dir, request.name, overwrite=request.overwrite)
        self.pair = load_pair(request.original, request.target, request.config)
        self.pair_report: PairReport = examine(self.pair)
        make_optimizer(self.config, [torch.nn.Parameter(torch.zeros(1))], self.config.learning_rate)  # does it exist?
        self._model_title = host.model_title
        self._preview_every = _spacing(self.config) if watched else 0
        self._latents: LatentPair | None = None
        self._learnt: Mapping[str, torch.Tensor] = {}  # the LoRA at the end of training or at the stop
        self._stopped = False

    def stop(self) -> None:
        """End after the current step; `events` then saves nothing. Safe to call from a signal handler."""
        self._stopped = True

    def events(self) -> Events:
        """Do the work. Results appear in `results`; the last one is the finished LoRA."""
        config = self.config
        with self._exclusive():
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
            network = LoraNetwork.create(modules, rank=config.rank, alpha=config.alpha, seed=config.seed)
            network.to(self.host.device)  # the host may keep some of its own layers elsewhere
            with network.attach():
                yield from self._train(network, plan, references)
                if not self._stopped:
                    yield from self._finish(network, self.request.name)

    def _train(self, network: LoraNetwork, plan: Plan, references: Mapping[Turn, torch.Tensor]) -> Events:
        """The steps, with what is kept on the way. `_learnt` is up to date at every end, an error's too."""
        assert self._latents is not None
        config, last = self.config, len(plan)
        steps = train(self.host, network, pairs=[self._latents], plan=plan, references=references, config=config)
        start, paused = time.monotonic(), 0.0  # previews and saves are no training time
        try:
            for report in steps:
                self.steps_done, self.train_seconds = report.step, time.monotonic() - start - paused
                yield report
                if self._stopped:
                    return
                break_start = time.monotonic()
                if self._preview_every and report.step % self._preview_every == 0 and report.step < last:
                    yield self._snapshot(network)
                if config.save_every and report.step % config.save_every == 0 and report.step < last:
                    yield from self._finish(network, self._step_name(report.step))
                paused += time.monotonic() - break_start
            if self._preview_every:
                yield self._snapshot(network)
        finally:
            self._learnt = network.tensors()

    @property
    def step_name(self) -> str:
        """The name under which what was learnt so far would be kept."""
        return self._step_name(self.steps_done)

    def _step_name(self, step: int) -> str:
        """NAME-stepN for an unfinished LoRA; with a number behind it where an earlier run left one of that name."""
        name = base = f"{self.request.name}-step{step}"
        ours = {result.path.stem for result in self.results}
        number = 2
        while not self.request.overwrite and name not in ours and (self.host.lora_dir / f"{name}.safetensors").exists():
            name, number = f"{base}-{number}", number + 1
        return name

    def keep(self, step: int | None = None) -> Events:
        """Prove and save, as NAME-stepN, what was learnt when a run was stopped, or one of its snapshots."""
        if step is None:
            step, tensors = self.steps_done, self._learnt
        elif step in self.snapshots:
            tensors = self.snapshots[step].tensors
        else:
            kept = ", ".join(map(str, self.snapshots)) or "none"
            raise TrainingError(f"step {step} was not kept: choose one of the kept steps ({kept}).")
        if self._latents is None or step == 0:
            raise TrainingError("nothing was learnt yet, so there is nothing to keep: let at least one step finish.")
        with self._exclusive():
            network = LoraNetwork.from_tensors(tensors, self.host.unet, self.host.lora_name).to(self.host.device)
            with network.attach():
                yield from self._finish(network, self._step_name(step), step)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """The host's model, if it still is the one for which this run was made."""
        config = self.config
        with self.host.exclusive(gradient_checkpointing=config.gradient_checkpointing, precision=config.precision):
            if self.host.model_title != self._model_title:
                raise HostError(
                    f"the model is now '{self.host.model_title}' and was '{self._model_title}' when Train was pressed: "
                    "choose the checkpoint you want and press Train again."
                )
            yield

    def _snapshot(self, network: LoraNetwork) -> Snapshot:
        """Keep the LoRA of this step, with a strip at the weights that it has before calibration."""
        assert self._latents is not None
        strip = preview_strip(self.host, network, self._latents, self.config, self.config.strength)
        snapshot = Snapshot(self.steps_done, network.tensors(), strip)
        self.snapshots[self.steps_done] = snapshot
        return snapshot

    def _finish(self, network: LoraNetwork, name: str, step: int | None = None) -> Events:
        """Check, calibrate and save the LoRA as it is now."""
        assert self._latents is not None
        _check_alive(network)
        yield Stage("proving it: the round trip")
        proof = round_trip(self.host, network, [self._latents], self.config)
        weight = self.config.strength * (proof.weight if self._is_calibrated(proof) else 1.0)
        yield Stage("drawing the preview")
        strip = preview_strip(self.host, network, self._latents, self.config, weight)
        pictures = round_trip_pictures(self.host, network, self._latents, self.config, weight)
        if self._stopped and name == self.request.name:
            return
        yield Stage("saving")
        steps = step or self.steps_done
        path = self._save(name, network.tensors(weight), proof, strip, steps)
        self.results.append(Result(path, steps, self.train_seconds, proof, weight, strip, pictures))
        self.host.refresh_loras(path)

    def _is_calibrated(self, proof: RoundTrip) -> bool:
        """Whether `proof` sets the weight: not where it found next to nothing."""
        return self.config.calibrate and proof.recovery >= LEARNT

    def _save(
        self, name: str, tensors: Mapping[str, torch.Tensor], proof: RoundTrip, strip: Image.Image, steps: int
    ) -> Path:
        height, width = self.pair.original.shape[:2]
        report = {
            "steps": steps,
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
            steps=steps,
        )
        overwrite = self.request.overwrite or name != self.request.name  # `_step_name` has looked already
        return save_lora(
            self.host.lora_dir / f"{name}.safetensors", tensors, metadata, precision=self.config.save_precision,
            preview=strip, overwrite=overwrite,
        )  # fmt: skip


def _spacing(config: TrainConfig) -> int:
    """Steps between snapshots: as asked, but no more than 30 of them, which are a few MB each."""
    return max(config.preview_every, math.ceil(config.max_train_steps / _MOST_SNAPSHOTS)) if config.preview_every else 0


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
