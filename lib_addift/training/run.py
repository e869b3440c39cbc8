"""The main job from end to end: pairs of pictures in, a LoRA file with its proof out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.checks import PairReport, examine
from lib_addift.data.pairs import ImagePair, PairSource, load_source
from lib_addift.diffusion.host import Host, lora_modules, text_layers
from lib_addift.errors import HostError, LoraFileError, PictureError, TrainingError
from lib_addift.evaluation.preview import preview_strip
from lib_addift.lora.arithmetic import resize
from lib_addift.lora.file import lora_path, read_lora
from lib_addift.lora.network import LoraNetwork, select_layers
from lib_addift.training.dataset import Dataset, check_method, encode_dataset
from lib_addift.training.encoder_cache import leave_encoder_alone
from lib_addift.training.events import Events, Request, Result, ResumeState, Snapshot, Stage
from lib_addift.training.finish import check_alive, prove, save
from lib_addift.training.lessons import asked_turns, make_lessons
from lib_addift.training.loop import train
from lib_addift.training.methods import method_of
from lib_addift.training.optimizer import check_optimizer
from lib_addift.training.state import StepReport, TrainState
from lib_addift.training.targets import TeacherPredictions

_MOST_SNAPSHOTS = 30
_CHECKPOINT_EVERY = 25  # steps, where no snapshots are kept
T = TypeVar("T")


class TrainingRun:
    """One job on one host. Creating it checks everything that can be checked before work starts.

    With `keep_snapshots` it yields ResumeStates, and Snapshots every `config.preview_every` steps and of the finished
    LoRA; with a `checkpoint` it goes on from there. `model_title` names the model for which it was asked, where that
    was before now. Raises PictureError, LoraFileError or ConfigError, each before anything is written.
    """

    def __init__(
        self,
        host: Host,
        request: Request,
        *,
        keep_snapshots: bool = False,
        checkpoint: ResumeState | None = None,
        model_title: str = "",
    ) -> None:
        self.host, self.request, self.config = host, request, request.config
        self.steps_done = checkpoint.step if checkpoint else 0
        self.train_seconds = checkpoint.train_seconds if checkpoint else 0.0
        self.snapshots: dict[int, Snapshot] = {}
        self.results: list[Result] = []
        lora_path(host.lora_dir, request.name, overwrite=request.overwrite)
        check_method(self.config, request.pairs)
        self.pairs = [_load(source, request) for source in request.pairs]
        self.pair_reports: list[PairReport] = [examine(pair) for pair in self.pairs]
        check_optimizer(self.config)
        self._model_title = model_title or host.model_title
        self._keep_snapshots, self.checkpoint = keep_snapshots, checkpoint
        self._preview_every = snapshot_spacing(self.config) if keep_snapshots else 0
        self._method = method_of(self.config)
        self._dataset = Dataset()
        self._learner: TrainState | None = None
        self.learnt: Mapping[str, torch.Tensor] = {}  # the LoRA at the end of training or at the stop
        self._stopped = False

    def stop(self) -> None:
        """End after the current step; `events` then saves nothing. Safe to call from a signal handler."""
        self._stopped = True

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    @property
    def pair(self) -> ImagePair:
        """The first pair."""
        return self.pairs[0]

    @property
    def pair_report(self) -> PairReport:
        return self.pair_reports[0]

    @property
    def state(self) -> TrainState:
        """What `prepare` has made."""
        assert self._learner is not None
        return self._learner

    def events(self) -> Events:
        """Do the work. Results appear in `results`; the last one is the finished LoRA."""
        with self.exclusive():
            try:
                yield from self.prepare()
                if not self._stopped:
                    for seconds, report in timed(train(self.host, self.state)):
                        yield from self.after_step(report, seconds)
                        if self._stopped:
                            return
                    yield from self.finish()
            finally:
                self.close()

    def prepare(self) -> Events:
        """Everything before the first step, inside of `exclusive`; ends early when the run is stopped."""
        config = self.config
        dataset = self._dataset = yield from encode_dataset(self.host, self.pairs, self.request.pairs, config)
        phases, pairs = self._method.phases(config, len(dataset.pairs)), dataset.all_learnt
        lessons = make_lessons(config, phases, pairs, dataset.views)
        networks = [self._network(index) for index in range(1 + max(phase.network for phase in phases))]
        teacher = TeacherPredictions(
            self.host, pairs, asked_turns(lessons, pairs), config.reference_batch_size,
            shares_encoder=leave_encoder_alone(networks),
        )  # fmt: skip
        self._learner = TrainState(self.host, networks, lessons=lessons, pairs=pairs, teacher=teacher, config=config)
        if self.checkpoint:
            self._learner.restore(self.checkpoint.state)

    def _network(self, index: int) -> LoraNetwork:
        """A LoRA that is to be taught, or the first one of the settings."""
        host, config = self.host, self.config
        if index == 0 and config.first_lora:
            tensors, _ = read_lora(Path(config.first_lora))
            network = LoraNetwork.over(lora_modules(host), tensors).to(host.device)
            if config.method == "residual" and not network.is_stackable:
                raise LoraFileError(
                    f"first_lora = '{config.first_lora}' is no plain LoRA, which residual needs: choose another."
                )
            return network
        modules = select_layers(host.unet, host.lora_name, layers=config.layers, blocks=config.blocks)
        if config.train_text_encoder:
            modules |= text_layers(host)
        network = LoraNetwork.create(
            modules, rank=config.rank, alpha=config.alpha, seed=config.seed, algorithm=config.algorithm,
            dora=config.dora, dropout=config.dropout, lokr_factor=config.lokr_factor,
        )  # fmt: skip
        return network.to(host.device)  # the host may keep some of its own layers elsewhere

    def after_step(self, report: StepReport, seconds: float) -> Events:
        """What is said and kept after a step that took so many seconds."""
        is_last = report.step == self.state.total
        self.steps_done = report.step
        self.train_seconds += seconds
        yield report
        if self._stopped:
            return
        if self.state.has_result and not is_last:  # `finish` draws and saves the last one
            if self._preview_every and report.step % self._preview_every == 0:
                yield self._snapshot(self._result())
            if self.config.save_every and report.step % self.config.save_every == 0:
                yield from self._finish(self._result(), self._step_name(report.step))
        # Last: what goes on from here does nothing of this step again.
        if self._keep_snapshots and (is_last or report.step % (self._preview_every or _CHECKPOINT_EVERY) == 0):
            yield ResumeState(report.step, self.train_seconds, self.state.state())

    def _result(self) -> LoraNetwork:
        """The LoRA of the difference, as it is now."""
        network = self._method.result(self.state.networks)
        if not 0 < self.config.result_rank < max(layer.rank for layer in network.layers.values()):
            return network
        tensors = resize(network.tensors(), self.config.result_rank)
        return LoraNetwork.over(lora_modules(self.host), tensors).to(self.host.device)

    def finish(self) -> Events:
        """Prove and save the LoRA after the last step."""
        if not self._stopped:
            yield from self._finish(self._result(), self.request.name, is_whole=True)

    def restart(self) -> None:
        """Forget what was done, so that `events` begins anew, from the checkpoint where there is one."""
        checkpoint = self.checkpoint
        self.steps_done = checkpoint.step if checkpoint else 0
        self.train_seconds = checkpoint.train_seconds if checkpoint else 0.0
        self.snapshots = {step: kept for step, kept in self.snapshots.items() if step <= self.steps_done}
        self._learner = None

    def close(self) -> None:
        """Keep of the work what `keep` needs, and let go of the rest."""
        if self._learner is not None:
            self.learnt = self._result().tensors() if self._learner.has_result else {}
            self._learner = None

    def set_partial_result(self, step: int, train_seconds: float, learnt: Mapping[str, torch.Tensor]) -> None:
        """Take over, for `keep`, what this run has learnt in another process before it was stopped."""
        self.steps_done, self.train_seconds, self.learnt = step, train_seconds, learnt

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
            step, tensors = self.steps_done, self.learnt
        elif step in self.snapshots:
            tensors = self.snapshots[step].tensors
        else:
            kept = ", ".join(map(str, self.snapshots)) or "none"
            raise TrainingError(f"step {step} was not kept: choose one of the kept steps ({kept}).")
        if not tensors or step == 0:
            raise TrainingError("nothing was learnt yet, so there is nothing to keep: let at least one step finish.")
        with self.exclusive():
            if not self._dataset.learnt:  # the step was kept by an earlier run of this request
                self._dataset = yield from encode_dataset(self.host, self.pairs, self.request.pairs, self.config)
            network = LoraNetwork.over(lora_modules(self.host), tensors).to(self.host.device)
            yield from self._finish(network, self._step_name(step), step)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """The host's model, if it still is the one for which this run was made."""
        with self.host.exclusive(precision=self.config.precision):
            self.check_model()
            yield

    def check_model(self) -> None:
        """Raises HostError when another model was loaded since this run was made."""
        if self.host.model_title != self._model_title:
            raise HostError(
                f"the model is now '{self.host.model_title}' and was '{self._model_title}' when Train was pressed: "
                "choose the checkpoint you want and press Train again."
            )

    def _snapshot(self, network: LoraNetwork) -> Snapshot:
        """Keep the LoRA of this step, with a strip at the weights that it has before calibration."""
        with network.attach():
            strip = preview_strip(self.host, network, self._dataset.pairs[0], self.config, self.config.strength)
        return self._kept(network, strip)

    def _kept(self, network: LoraNetwork, strip: Image.Image) -> Snapshot:
        """A snapshot of the LoRA as it is now."""
        snapshot = self.snapshots[self.steps_done] = Snapshot(self.steps_done, network.tensors(), strip)
        return snapshot

    def _finish(self, network: LoraNetwork, name: str, step: int | None = None, *, is_whole: bool = False) -> Events:
        """Check, calibrate and save the LoRA as it is now; `is_whole`: nothing is left to learn."""
        check_alive(network)
        proved = yield from prove(self.host, network, self._dataset, self.config)
        if is_whole and self._preview_every:
            yield self._kept(network, proved.strip)
        if is_whole and self._stopped:
            return
        yield Stage("saving")
        steps, tensors = step or self.steps_done, network.tensors(proved.weight)
        path = save(
            self.host, self.request, name, tensors, proved, steps=steps, pairs=self.pair_reports,
            held_out_pairs=len(self._dataset.held_out),
        )  # fmt: skip
        self.results.append(Result(
            path, steps, self.train_seconds, proved.proof, proved.weight, proved.strip, proved.pictures, proved.held_out
        ))  # fmt: skip
        self.host.refresh_loras(path)


def timed(items: Iterable[T]) -> Iterator[tuple[float, T]]:
    """Each item with the seconds that it took to come."""
    iterator = iter(items)
    while True:
        begun = time.monotonic()
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield time.monotonic() - begun, item


def _load(source: PairSource, request: Request) -> ImagePair:
    try:
        return load_source(source, request.config)
    except PictureError as error:
        if not source.name:
            raise
        raise PictureError(f"{'picture' if source.is_single else 'pair'} '{source.name}': {error}") from error


def snapshot_spacing(config: TrainConfig) -> int:
    """Steps between snapshots: as asked, but no more than 30 of them, which are a few MB each."""
    return max(config.preview_every, math.ceil(config.max_train_steps / _MOST_SNAPSHOTS)) if config.preview_every else 0
