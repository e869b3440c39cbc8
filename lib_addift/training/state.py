"""One run while it learns: its LoRAs, the optimizer, and how far its plan is done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.latents import LatentPair, Role
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.errors import TrainingError
from lib_addift.lora.names import kohya
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.loss import LossScale, difference_loss
from lib_addift.training.methods.phase import Goal
from lib_addift.training.optimizer import make_optimizer, rate_at
from lib_addift.training.plan import PhasePlan, Sample
from lib_addift.training.targets import TeacherPredictions, sample_noise

_MAX_SKIPPED_IN_A_ROW = 10
_REFERENCE_WIDTH = 320  # channels of SD1.5's first layer; learning rates are stated for this width


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did."""

    step: int  # from 1
    total: int
    loss: float
    learning_rate: float
    skipped: int  # steps so far whose gradients were not finite and changed nothing
    note: str = ""  # what a person should know of it


def rate_factor(model: Model, config: TrainConfig) -> float:
    """What the learning rate of the settings is multiplied with: a shift is learnt in units of what it is added to."""
    return width_factor(model) * model.family.layers_rate if config.kind.rate_by_width else 1.0


def width_factor(model: Model) -> float:
    """How much higher a narrower UNet's learning rate is: it has fewer weights to make the same change with.

    The square is measured (docs/method.md): on the tiny world, at a fifth of SD1.5's width, 25 times the rate is best.
    """
    first = next(m for name, m in model.unet.named_modules() if model.lora_name(name) == kohya("conv_in", model.family))
    return float(_REFERENCE_WIDTH / next(first.parameters()).shape[0]) ** 2  # (channels, 4, 3, 3)


@dataclass(frozen=True)
class _Stage:
    """A phase made ready: its LoRA, its optimizer, and the learning rate of each of its steps."""

    plan: PhasePlan
    network: LoraNetwork
    frozen_loras: Sequence[LoraNetwork]  # act meanwhile and do not learn
    optimizer: torch.optim.Optimizer
    rates: Sequence[float]


class TrainState:
    """The phases of a run, and the LoRAs that they train one after the other.

    `pairs` are those that the plans' samples count; `teacher` has the frozen prediction of the samples that need it.
    `error` is set when training has failed; then no step is left.
    """

    def __init__(
        self,
        model: Model,
        networks: Sequence[LoraNetwork],
        *,
        plans: Sequence[PhasePlan],
        pairs: Sequence[LatentPair],
        teacher: TeacherPredictions,
        config: TrainConfig,
    ) -> None:
        self.networks, self.plans, self.pairs, self.config = list(networks), list(plans), pairs, config
        self.total = sum(len(plan.steps) for plan in plans)
        self._stages = [self._stage(plan, config.learning_rate * rate_factor(model, config)) for plan in plans]
        self.step = 0  # steps done
        self.teacher = teacher
        self.error: TrainingError | None = None
        self._needs_scaling, self._device = model.needs_loss_scaling, model.device
        self._skipped, self._skipped_in_a_row = 0, 0
        self._begin_phase(0)

    def _stage(self, plan: PhasePlan, base_rate: float) -> _Stage:
        network = self.networks[plan.phase.network]
        groups = network.parameter_groups(self.config.lora_plus_ratio, self.config.text_encoder_rate)
        optimizer = make_optimizer(self.config, groups, base_rate)
        steps = len(plan.steps)
        rates = [base_rate * rate_at(step, self.config, steps) for step in range(steps)]
        return _Stage(plan, network, [self.networks[each] for each in plan.phase.frozen_loras], optimizer, rates)

    def _begin_phase(self, index: int) -> None:
        """Its LoRA learns from now on, the others do not."""
        self._phase, self.stage = index, self._stages[index]
        self._first_step = sum(len(plan.steps) for plan in self.plans[:index])
        for network in self.networks:
            network.requires_grad_(network is self.stage.network)
        self._scale = LossScale(enabled=self._needs_scaling)
        self.reset_step()

    @property
    def is_active(self) -> bool:
        """Whether there are steps left to take."""
        return self.step < self.total and self.error is None

    @property
    def has_result(self) -> bool:
        """Whether the last phase has begun, and with it the LoRA that the method is about."""
        return self.step > self.total - len(self.plans[-1].steps)

    @property
    def network(self) -> LoraNetwork:
        """The LoRA that learns now."""
        return self.stage.network

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What the next step learns from."""
        return self.stage.plan.steps[self.step - self._first_step]

    @property
    def dropout_seed(self) -> int:
        """Of the next step: another one for each step, and the same when the step is taken again."""
        return self.config.seed * self.total + self.step

    def target(self, sample: Sample) -> torch.Tensor:
        """The epsilon (1, C, h, w) that the LoRA's prediction of a sample shall become.

        With a `target_share`, the frozen prediction, whose clean picture may lie past the pair's, is mixed with the
        true noise, whose clean picture is the pair's own, where the pair's pictures differ.
        """
        pair, share = self.pairs[sample.pair], self.config.target_share
        if sample.goal is Goal.MODEL and not share:
            return self.teacher[sample]
        latents = pair.student(sample.direction).latents
        noise = sample_noise(sample, latents.shape).to(latents.device)
        if sample.goal is Goal.NOISE:
            return noise
        return torch.lerp(self.teacher[sample].float(), noise, share * pair.change)

    def add_loss(
        self, noise_pred: torch.Tensor, timesteps: torch.Tensor, samples: Sequence[Sample], schedule: NoiseSchedule
    ) -> torch.Tensor:
        """Add some samples' part to the step's loss; returns it scaled, to be differentiated."""
        pairs = [self.pairs[sample.pair] for sample in samples]
        loss = difference_loss(
            noise_pred, torch.cat([self.target(sample) for sample in samples]), timesteps=timesteps, mask=_masks(pairs),
            schedule=schedule, config=self.config,
        )  # fmt: skip
        if any(pair.weight != 1 for pair in pairs):
            loss = loss * torch.tensor([pair.weight for pair in pairs], device=loss.device)
        # The loss is a mean over the samples that are learnt from; regularisation samples are added to it.
        learnt = sum(self.pairs[sample.pair].role is Role.LEARN for sample in self.samples)
        loss = loss.mean() * (len(samples) / learnt)
        self._loss += loss.detach()
        return loss * self._scale.value

    def reset_step(self) -> None:
        """Forget the gradients and the loss that a pass has left."""
        self.stage.optimizer.zero_grad(set_to_none=True)
        self._loss = torch.zeros((), device=self._device)

    def take_step(self, note: str = "") -> StepReport | TrainingError:
        """Take the step for which the gradients are there; an error when they stay non-finite."""
        loss, rate = float(self._loss), self.stage.rates[self.step - self._first_step]
        for group in self.stage.optimizer.param_groups:
            group["lr"] = rate * group["ratio"]
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        self._scale.unscale(gradients)
        finite = math.isfinite(float(torch.stack(torch._foreach_norm(gradients)).sum()))
        self._scale.update(finite)
        if finite:
            self.stage.optimizer.step()
        self.reset_step()
        self._skipped += not finite
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        if self._skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
            self.error = TrainingError(
                f"the gradients of the last {self._skipped_in_a_row} steps were not finite (loss {loss:g}), so nothing "
                "was learnt: lower the learning rate, or choose precision fp32."
            )
            return self.error
        self.step += 1
        report = StepReport(self.step, self.total, loss, rate, self._skipped, note)
        if self.step - self._first_step == len(self.stage.rates) and self.step < self.total:
            self._begin_phase(self._phase + 1)
        return report

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` goes on, bit by bit, where this run stands."""
        return {
            "step": self.step,
            "lesson": self._phase,  # the key of files that exist
            "parameters": _copied([p for network in self.networks for p in network.parameters()]),
            "optimizer": _copied(self.stage.optimizer.state_dict()),
            "scale": self._scale.state(),
            "skipped": [self._skipped, self._skipped_in_a_row],
            "rng": torch.get_rng_state(),  # for an optimizer that draws numbers
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from another one's `state_dict`, of the same job."""
        self._begin_phase(int(state["lesson"]))
        parameters = [p for network in self.networks for p in network.parameters()]
        for parameter, kept in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(kept)
        self.stage.optimizer.load_state_dict(state["optimizer"])
        self._scale.restore(state["scale"])
        self.step = int(state["step"])
        self._prefetch_step_before()
        self._skipped, self._skipped_in_a_row = state["skipped"]
        torch.set_rng_state(state["rng"])

    def _prefetch_step_before(self) -> None:
        """Ask for what the step before was asked for: its encoder's features serve the other direction in this one."""
        done = self.step - self._first_step
        if done:
            self.teacher.prefetch(self.stage.plan.steps[done - 1])


def _masks(pairs: Sequence[LatentPair]) -> torch.Tensor | None:
    """(B, 1, h, w); a pair without a mask learns everywhere."""
    if all(pair.mask is None for pair in pairs):
        return None
    ones = torch.ones_like(pairs[0].original.latents[:, :1])
    return torch.cat([ones if pair.mask is None else pair.mask for pair in pairs])


def _copied(value: Any) -> Any:
    """`value` with copies, on the CPU, of all the tensors in it: the optimizer goes on writing in its own."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, (list, tuple)) else value
