"""One LoRA on its way: what it learns from, its optimizer, and how far it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.latents import LatentPair, Role
from lib_addift.errors import TrainingError
from lib_addift.lora.network import LoraNetwork
from lib_addift.training.lessons import Lesson, goal_of
from lib_addift.training.methods.phase import Goal, Phase
from lib_addift.training.optimizer import LossScale, make_optimizer, rate_at
from lib_addift.training.plan import Turn, turn_noise
from lib_addift.training.targets import TeacherPredictions

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


def width_factor(host: Host) -> float:
    """How much higher a narrower UNet's learning rate is: it has fewer weights to make the same change with.

    The square is measured (docs/method.md): on the tiny world, at a fifth of SD1.5's width, 25 times the rate is best.
    """
    first = next(m for name, m in host.unet.named_modules() if host.lora_name(name) == "lora_unet_conv_in")
    return float(_REFERENCE_WIDTH / next(first.parameters()).shape[0]) ** 2  # (channels, 4, 3, 3)


class TrainState:
    """Lessons, and the LoRAs that they teach one after the other.

    `pairs` are those that the lessons' turns count; `teacher` has the frozen prediction of those that need it.
    """

    def __init__(
        self,
        host: Host,
        networks: Sequence[LoraNetwork],
        *,
        lessons: Sequence[Lesson],
        pairs: Sequence[LatentPair],
        teacher: TeacherPredictions,
        config: TrainConfig,
    ) -> None:
        self.networks, self.lessons, self.pairs, self.config = list(networks), list(lessons), pairs, config
        self.total = sum(len(lesson.plan) for lesson in lessons)
        self.step = 0  # steps done
        self.teacher = teacher
        self._base_rate = config.learning_rate * width_factor(host)
        self._needs_scaling = host.needs_loss_scaling
        self._skipped, self._skipped_in_a_row = 0, 0
        self._begin(0)

    def _begin(self, lesson: int) -> None:
        """Turn to another lesson: its LoRA learns, the others do not."""
        self._lesson = lesson
        for network in self.networks:
            network.requires_grad_(network is self.network)
        self._parameters = list(self.network.parameters())
        groups = self.network.parameter_groups(self.config.lora_plus_ratio, self.config.text_encoder_rate)
        self._optimizer = make_optimizer(self.config, groups, self._base_rate)
        self._scale = LossScale(enabled=self._needs_scaling)

    @property
    def is_done(self) -> bool:
        return self.step == self.total

    @property
    def has_result(self) -> bool:
        """Whether the last lesson has begun, and with it the LoRA that the method is about."""
        return self.step > self.total - len(self.lessons[-1].plan)

    @property
    def is_in_last_lesson(self) -> bool:
        return self._lesson == len(self.lessons) - 1

    @property
    def phase(self) -> Phase:
        return self.lessons[self._lesson].phase

    @property
    def network(self) -> LoraNetwork:
        """The LoRA that learns now."""
        return self.networks[self.phase.network]

    @property
    def frozen_loras(self) -> list[LoraNetwork]:
        """The LoRAs that act meanwhile and do not learn."""
        return [self.networks[index] for index in self.phase.frozen_loras]

    @property
    def _begun(self) -> int:
        """The steps before the present lesson."""
        return sum(len(lesson.plan) for lesson in self.lessons[: self._lesson])

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What the next step learns from."""
        return self.lessons[self._lesson].plan[self.step - self._begun]

    @property
    def visits(self) -> int:
        """How many of them are not companions: the loss is a mean over these."""
        return sum(self.pairs[turn.pair].role is Role.LEARN for turn in self.turns)

    def goal(self, turn: Turn) -> torch.Tensor:
        """The epsilon (1, 4, h, w) that the LoRA's prediction of a turn shall become."""
        if goal_of(turn, self.phase, self.pairs) is Goal.MODEL:
            return self.teacher[turn]
        latents = self.pairs[turn.pair].student(turn.direction).latents
        return turn_noise(turn, latents.shape).to(latents.device)

    @property
    def dropout_seed(self) -> int:
        """Of the next step: another one for each step, and the same when the step is taken again."""
        return self.config.seed * self.total + self.step

    @property
    def loss_scale(self) -> float:
        """By what the loss is multiplied before it is differentiated."""
        return self._scale.value

    def drop_gradients(self) -> None:
        """Forget what a pass that failed has left."""
        self._optimizer.zero_grad(set_to_none=True)

    def take_step(self, loss: float, note: str = "") -> StepReport:
        """Take the step for which the gradients are there. Raises TrainingError when they stay non-finite."""
        lesson = self.lessons[self._lesson]
        rate = self._base_rate * rate_at(self.step - self._begun, self.config, len(lesson.plan))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["ratio"]
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._scale.unscale(gradients)
        finite = math.isfinite(float(torch.stack(torch._foreach_norm(gradients)).sum()))
        self._scale.update(finite)
        if finite:
            self._optimizer.step()
        self.drop_gradients()
        self._skipped += not finite
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        if self._skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the gradients of the last {self._skipped_in_a_row} steps were not finite (loss {loss:g}), so nothing "
                "was learnt: lower the learning rate, or choose precision fp32."
            )
        self.step += 1
        report = StepReport(self.step, self.total, loss, rate, self._skipped, note)
        if self.step - self._begun == len(lesson.plan) and not self.is_in_last_lesson:
            self._begin(self._lesson + 1)
        return report

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on, bit by bit, where this learner stands."""
        return {
            "step": self.step,
            "lesson": self._lesson,
            "parameters": _copied([p for network in self.networks for p in network.parameters()]),
            "optimizer": _copied(self._optimizer.state_dict()),
            "scale": self._scale.state(),
            "skipped": [self._skipped, self._skipped_in_a_row],
            "rng": torch.get_rng_state(),  # for an optimizer that draws numbers
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from another learner's `state`, of the same job."""
        self._begin(int(state["lesson"]))
        parameters = [p for network in self.networks for p in network.parameters()]
        for parameter, kept in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(kept)
        self._optimizer.load_state_dict(state["optimizer"])
        self._scale.restore(state["scale"])
        self.step = int(state["step"])
        self._skipped, self._skipped_in_a_row = state["skipped"]
        torch.set_rng_state(state["rng"])


def _copied(value: Any) -> Any:
    """`value` with copies, on the CPU, of all the tensors in it: the optimizer goes on writing in its own."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, (list, tuple)) else value
