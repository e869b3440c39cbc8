"""The training loop: a generator that takes one optimizer step at a time, for one LoRA or for several at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lib_addift.config import TrainConfig
from lib_addift.encode import LatentPair
from lib_addift.errors import TrainingError
from lib_addift.hosts.base import Host
from lib_addift.lora import LoraNetwork, LoraStack
from lib_addift.objective import difference_loss, turn_multiplier
from lib_addift.optim import LossScale, make_optimizer, rate_at
from lib_addift.plan import Plan, Turn
from lib_addift.reference import noisy_batch
from lib_addift.schedule import NoiseSchedule

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


def width_factor(host: Host) -> float:
    """How much higher a narrower UNet's learning rate is: it has fewer weights to make the same change with.

    The square is measured (docs/method.md): on the tiny world, at a fifth of SD1.5's width, 25 times the rate is best.
    """
    first = next(m for name, m in host.unet.named_modules() if host.lora_name(name) == "lora_unet_conv_in")
    return float(_REFERENCE_WIDTH / next(first.parameters()).shape[0]) ** 2  # (channels, 4, 3, 3)


class Learner:
    """One LoRA on its way: what it learns from, its optimizer, and how far it is.

    `pairs` are all views of all pairs, as `plan` counts them; `references` has the frozen prediction of each turn.
    """

    def __init__(
        self,
        host: Host,
        network: LoraNetwork,
        *,
        pairs: Sequence[LatentPair],
        plan: Plan,
        references: Mapping[Turn, torch.Tensor],
        config: TrainConfig,
    ) -> None:
        self.network, self.pairs, self.plan, self.references, self.config = network, pairs, plan, references, config
        self.step = 0  # steps done
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._base_rate = config.learning_rate * width_factor(host)
        self._optimizer = make_optimizer(config, self._parameters, self._base_rate)
        self._scale = LossScale(enabled=host.needs_loss_scaling)
        self._skipped, self._skipped_in_a_row = 0, 0

    @property
    def is_done(self) -> bool:
        return self.step == len(self.plan)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What the next step learns from."""
        return self.plan[self.step]

    @property
    def loss_scale(self) -> float:
        """By what the loss is multiplied before it is differentiated."""
        return self._scale.value

    def take_step(self, loss: float) -> StepReport:
        """Take the step for which the gradients are there. Raises TrainingError when they stay non-finite."""
        rate = self._base_rate * rate_at(self.step, self.config)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self._scale.unscale(gradients)
        finite = math.isfinite(float(torch.stack(torch._foreach_norm(gradients)).sum()))
        self._scale.update(finite)
        if finite:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._skipped += not finite
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        if self._skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the gradients of the last {self._skipped_in_a_row} steps were not finite (loss {loss:g}), so nothing "
                "was learnt: lower the learning rate, or choose precision fp32."
            )
        self.step += 1
        return StepReport(self.step, len(self.plan), loss, rate, self._skipped)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `restore` goes on, bit by bit, where this learner stands."""
        return {
            "step": self.step,
            "parameters": _copied(self._parameters),
            "optimizer": _copied(self._optimizer.state_dict()),
            "scale": self._scale.state(),
            "skipped": [self._skipped, self._skipped_in_a_row],
            "rng": torch.get_rng_state(),  # for an optimizer that draws numbers
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from another learner's `state`, of the same job."""
        for parameter, kept in zip(self._parameters, state["parameters"], strict=True):
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


def train(host: Host, learner: Learner) -> Iterator[StepReport]:
    """Take the steps that are left; closing the iterator stops training. The LoRA acts only inside of a step.

    Raises TrainingError when gradients stay non-finite.
    """
    for reports in train_together(host, [learner]):
        report = reports[learner]
        if isinstance(report, TrainingError):
            raise report
        yield report


def train_together(host: Host, learners: Sequence[Learner]) -> Iterator[dict[Learner, StepReport | TrainingError]]:
    """One step of every learner that has steps left, all samples in one pass; a learner that fails drops out.

    All need the same layers and the same rank. A learner that the caller has no more use for is taken out of `learners`
    by the caller.
    """
    schedule = NoiseSchedule(host.alphas_cumprod)
    failed: set[Learner] = set()
    while active := [each for each in learners if not each.is_done and each not in failed]:
        with _acting(active) as network:
            losses = _differentiate(host, network, active, schedule)
        reports: dict[Learner, StepReport | TrainingError] = {}
        for learner, loss in zip(active, losses, strict=True):
            try:
                reports[learner] = learner.take_step(float(loss))
            except TrainingError as error:
                reports[learner] = error
                failed.add(learner)
        yield reports


def _acting(learners: Sequence[Learner]) -> Any:
    """The context in which all the learners' LoRAs act, each on its own samples."""
    networks = [learner.network for learner in learners]
    return (networks[0] if len(networks) == 1 else LoraStack(networks)).attach()


@dataclass(frozen=True)
class _Sample:
    """A turn of one of the learners."""

    owner: int
    turn: Turn
    pair: LatentPair


def _differentiate(
    host: Host, network: LoraNetwork | LoraStack, learners: Sequence[Learner], schedule: NoiseSchedule
) -> list[torch.Tensor]:
    """The mean loss of each learner's next turns, its gradients added up; pictures of one size go in one pass."""
    groups: dict[tuple[int, ...], list[_Sample]] = {}
    for owner, learner in enumerate(learners):
        for turn in learner.turns:
            pair = learner.pairs[turn.pair]
            groups.setdefault(pair.shape, []).append(_Sample(owner, turn, pair))
    losses = [torch.zeros((), device=host.device) for _ in learners]
    for samples in groups.values():
        _set_multipliers(network, samples, learners, host.device)
        noisy_latents, timesteps, cond = noisy_batch(
            [sample.pair.student(sample.turn.direction) for sample in samples],
            [sample.turn for sample in samples],
            schedule,
        )
        noise_pred = host.predict_noise(noisy_latents, timesteps, cond)
        scaled = []
        for owner in dict.fromkeys(sample.owner for sample in samples):
            learner, chosen = learners[owner], [n for n, sample in enumerate(samples) if sample.owner == owner]
            part = slice(chosen[0], chosen[-1] + 1)  # a learner's samples stand together
            loss = _sample_losses(noise_pred[part], timesteps[part], samples[part], learner, schedule).mean()
            loss = loss * (len(chosen) / len(learner.turns))
            losses[owner] += loss.detach()
            scaled.append(loss * learner.loss_scale)
        torch.stack(scaled).sum().backward()  # now: what is checkpointed runs again, with this group's multipliers
    return losses


def _set_multipliers(
    network: LoraNetwork | LoraStack, samples: Sequence[_Sample], learners: Sequence[Learner], device: torch.device
) -> None:
    """Put them on the device once: otherwise every layer brings them there anew."""
    multipliers = [turn_multiplier(sample.turn.direction, learners[sample.owner].config) for sample in samples]
    network.multiplier = torch.tensor(multipliers, device=device)
    if isinstance(network, LoraStack):
        network.owners = torch.tensor([sample.owner for sample in samples], device=device)


def _sample_losses(
    noise_pred: torch.Tensor,
    timesteps: torch.Tensor,
    samples: Sequence[_Sample],
    learner: Learner,
    schedule: NoiseSchedule,
) -> torch.Tensor:
    """The weighted loss of each of a learner's samples, (B,)."""
    loss = difference_loss(
        noise_pred,
        torch.cat([learner.references[sample.turn] for sample in samples]),
        timesteps=timesteps,
        mask=_masks([sample.pair for sample in samples]),
        schedule=schedule,
        config=learner.config,
    )
    weights = [sample.pair.weight for sample in samples]
    return loss if all(weight == 1 for weight in weights) else loss * torch.tensor(weights, device=loss.device)


def _masks(pairs: Sequence[LatentPair]) -> torch.Tensor | None:
    """(B, 1, h, w); a pair without a mask learns everywhere."""
    if all(pair.mask is None for pair in pairs):
        return None
    ones = torch.ones_like(pairs[0].original.latents[:, :1])
    return torch.cat([ones if pair.mask is None else pair.mask for pair in pairs])
