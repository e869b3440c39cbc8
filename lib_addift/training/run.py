"""One training run from end to end: pairs of pictures in, a LoRA file and what was measured of it out."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from lib_addift.data.checks import PairReport
from lib_addift.data.pairs import ImagePair
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.latents import LatentPair
from lib_addift.errors import HostError, TrainingError
from lib_addift.evaluation.preview import preview_strip
from lib_addift.evaluation.weight import unmeasured_weight
from lib_addift.lora.arithmetic import resize
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.dataset import Dataset, encode_dataset
from lib_addift.training.encoder_cache import leave_encoder_alone
from lib_addift.training.events import (
    Events,
    KeptTensors,
    PreparedPairs,
    Request,
    Result,
    ResumeState,
    Snapshot,
    Stage,
    snapshot_spacing,
)
from lib_addift.training.finish import Measured, draw, measure, save
from lib_addift.training.loop import timed, train_one
from lib_addift.training.methods import method_of
from lib_addift.training.networks import load_lora, start_lora
from lib_addift.training.plan import Plan, plan_phases, teacher_samples
from lib_addift.training.request import check_request, fitted
from lib_addift.training.state import StepReport, TrainState
from lib_addift.training.targets import TeacherPredictions

_RESUME_STATE_EVERY = 25  # steps, where no snapshots are kept


class TrainingRun:
    """One job on one host. Creating it checks everything that can be checked before work starts (`check_request`).

    With `keep_snapshots` it yields ResumeStates, and Snapshots every `config.preview_every` steps and of the finished
    LoRA; with a `resume_state` it goes on from there. `model_title` names the model for which it was asked, where that
    was before now. Raises PictureError, LoraFileError or ConfigError, each before anything is written.
    """

    def __init__(
        self,
        host: Host,
        request: Request,
        *,
        prepared: PreparedPairs | None = None,
        keep_snapshots: bool = False,
        resume_state: ResumeState | None = None,
        model_title: str = "",
    ) -> None:
        self.prepared = prepared or check_request(request, host.lora_dir, host.picture_side)
        self.host, self.request = host, fitted(request, self.prepared.pairs)
        self.config = self.request.config
        self.snapshots: dict[int, KeptTensors] = {}
        self._state: TrainState | None = None
        self.results: list[Result] = []  # the files written, but for those that were taken
        self.taken: set[str] = set()  # the names of files that this request has written before
        self.learnt: Mapping[str, torch.Tensor] = {}  # the LoRA at the end of training or at the stop
        self.resume_state = resume_state
        self.model_title = model_title or host.model_title
        self._keep_snapshots = keep_snapshots
        self._preview_every = snapshot_spacing(self.config) if keep_snapshots else 0
        self.resume_every = self._preview_every or _RESUME_STATE_EVERY  # steps between resume states
        self._method = method_of(self.config)
        self._dataset: Dataset | None = None
        self._stopped = False
        self.restart()

    def stop(self) -> None:
        """End after the current step; `events` then saves nothing. Safe to call from a signal handler."""
        self._stopped = True

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    @property
    def is_finished(self) -> bool:
        """Whether the LoRA that was asked for is written."""
        return any(result.path.stem == self.request.name for result in self.results)

    @property
    def can_keep(self) -> bool:
        """Whether a stopped run has learnt something that `keep` can save."""
        return self.steps_done > 0

    @property
    def pairs(self) -> tuple[ImagePair, ...]:
        """The pairs as they are trained on."""
        return self.prepared.pairs

    @property
    def pair(self) -> ImagePair:
        """The first pair."""
        return self.prepared.pairs[0]

    @property
    def pair_report(self) -> PairReport:
        """What the pair doctor says of the first pair."""
        return self.prepared.reports[0]

    @property
    def state(self) -> TrainState:
        """What `prepare` has made."""
        assert self._state is not None
        return self._state

    def events(self) -> Events:
        """Do the work. Results appear in `results`; the last one is the finished LoRA."""
        with self.exclusive():
            try:
                yield from self.prepare()
                if not self._stopped:
                    for seconds, report in timed(train_one(self.host, self.state)):
                        yield from self.after_step(report, seconds)
                        if self._stopped:
                            return
                    yield from self.finish()
            finally:
                self.close()

    def prepare(self) -> Events:
        """Everything before the first step, inside of `exclusive`; ends early when the run is stopped."""
        config, dataset = self.config, (yield from self.encoded())
        phases, pairs = self._method.phases(config, len(dataset.learnt)), dataset.training
        plans = plan_phases(config, phases, pairs, dataset.views)
        networks = [start_lora(self.host, config, index) for index in range(1 + max(phase.network for phase in phases))]
        teacher = self.new_teacher(pairs, teacher_samples(plans), shares_encoder=leave_encoder_alone(networks))
        self._state = TrainState(self.host, networks, plans=plans, pairs=pairs, teacher=teacher, config=config)
        if self.resume_state:
            self._state.load_state_dict(self.resume_state.state)

    def encoded(self) -> Generator[Stage, None, Dataset]:
        """The pictures and prompts as the model sees them, encoded once."""
        if self._dataset is None:
            self._dataset = yield from encode_dataset(self.host, self.pairs, self.request.pairs, self.config)
        return self._dataset

    def new_teacher(self, pairs: Sequence[LatentPair], asked: Plan, *, shares_encoder: bool) -> TeacherPredictions:
        """The frozen model's predictions of the samples that are `asked` for."""
        batch_size = self.config.reference_batch_size
        return TeacherPredictions(self.host, pairs, asked, batch_size, shares_encoder=shares_encoder)

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
                yield self._draw_snapshot(self._result())
            if self.config.save_every and report.step % self.config.save_every == 0:
                yield from self._save(self._result(), self._step_name(report.step))
        # Last: what goes on from here does nothing of this step again.
        if self._keep_snapshots and (is_last or report.step % self.resume_every == 0):
            yield ResumeState(report.step, self.train_seconds, self.state.state_dict())

    def _result(self) -> LoraNetwork:
        """The LoRA of the difference, as it is now."""
        network = self._method.result(self.state.networks)
        if not 0 < self.config.result_rank < max(layer.rank for layer in network.layers.values()):
            return network
        return load_lora(self.host, resize(network.tensors(), self.config.result_rank))

    def finish(self) -> Events:
        """Measure and save the LoRA after the last step."""
        if not self._stopped:
            yield from self._save(self._result(), self.request.name, is_whole=True)

    def restart(self) -> None:
        """Forget what was done, so that `events` begins anew, from the resume state where there is one."""
        resume_state = self.resume_state
        self.steps_done = resume_state.step if resume_state else 0
        self.train_seconds = resume_state.train_seconds if resume_state else 0.0
        self.snapshots = {step: kept for step, kept in self.snapshots.items() if step <= self.steps_done}
        self._state = None

    def close(self) -> None:
        """Keep of the work what `keep` needs, and let go of the rest."""
        if self._state is not None:
            self.learnt = self._result().tensors() if self._state.has_result else {}
            self._state = None

    def set_partial_result(self, step: int, train_seconds: float, learnt: Mapping[str, torch.Tensor]) -> None:
        """Take over, for `keep`, what this run has learnt in another process before it was stopped."""
        self.steps_done, self.train_seconds, self.learnt = step, train_seconds, learnt

    def release(self, result: Result) -> None:
        """Let go of one of `results`, which is kept elsewhere from now on."""
        self.results.remove(result)
        self.taken.add(result.path.stem)

    @property
    def step_name(self) -> str:
        """The name under which what was learnt so far would be kept."""
        return self._step_name(self.steps_done)

    def _step_name(self, step: int) -> str:
        """NAME-stepN for an unfinished LoRA; with a number behind it where an earlier run left one of that name."""
        name = base = f"{self.request.name}-step{step}"
        ours = {*self.taken, *(result.path.stem for result in self.results)}
        number = 2
        while not self.request.overwrite and name not in ours and (self.host.lora_dir / f"{name}.safetensors").exists():
            name, number = f"{base}-{number}", number + 1
        return name

    def keep(self, step: int | None = None) -> Events:
        """Measure and save, as NAME-stepN, what was learnt when a run was stopped, or one of its snapshots."""
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
            yield from self._save(load_lora(self.host, tensors), self._step_name(step), step)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """The host's model, if it still is the one for which this run was made."""
        with self.host.exclusive(precision=self.config.precision):
            self.check_model()
            yield

    def check_model(self) -> None:
        """Raises HostError when another model was loaded since this run was made."""
        if self.host.model_title != self.model_title:
            raise HostError(
                f"the model is now '{self.host.model_title}' and was '{self.model_title}' when Train was pressed: "
                "choose the checkpoint you want and press Train again."
            )

    def _draw_snapshot(self, network: LoraNetwork) -> Snapshot:
        """Keep the LoRA of this step, with a strip at the weight that it has before it is measured."""
        assert self._dataset is not None
        with network.attach():
            strip = preview_strip(
                self.host, network, self._dataset.learnt[0], self.config, unmeasured_weight(self.config)
            )
        return self._snapshot(network, strip)

    def _snapshot(self, network: LoraNetwork, strip: Image.Image) -> Snapshot:
        """A snapshot of the LoRA as it is now."""
        snapshot = self.snapshots[self.steps_done] = Snapshot(self.steps_done, network.tensors(), strip)
        return snapshot

    def _save(
        self,
        network: LoraNetwork,
        name: str,
        step: int = 0,
        *,
        is_whole: bool = False,
        measured: Measured | None = None,
    ) -> Events:
        """Measure, calibrate, draw and save the LoRA as it is now; `is_whole`: nothing is left to learn."""
        dataset = yield from self.encoded()  # again where the step was kept by an earlier run of this request
        measured = measured or (yield from measure(self.host, network, dataset, self.config))
        result = yield from draw(
            self.host, network, dataset, self.request.config, measured,
            path=self.host.lora_dir / f"{name}.safetensors", steps=step or self.steps_done, seconds=self.train_seconds,
        )  # fmt: skip
        if is_whole and self._preview_every:
            yield self._snapshot(network, result.strip)
        if is_whole and self._stopped:
            return
        yield Stage("saving")
        save(
            self.host, self.request, result, network.tensors(result.weight), pairs=self.prepared.reports,
            held_out_pairs=len(dataset.held_out),
        )  # fmt: skip
        self.results.append(result)
        self.host.refresh_loras(result.path)
