"""The training loop: a generator that takes one optimizer step at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lib_addift.config import TrainConfig
from lib_addift.encode import LatentPair
from lib_addift.errors import TrainingError
from lib_addift.hosts.base import Host
from lib_addift.lora import LoraNetwork
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


def train(
    host: Host,
    network: LoraNetwork,
    *,
    pairs: Sequence[LatentPair],
    plan: Plan,
    references: Mapping[Turn, torch.Tensor],
    config: TrainConfig,
) -> Iterator[StepReport]:
    """Take the steps of `plan`, with `network` already attached; closing the iterator stops training.

    Raises TrainingError when gradients stay non-finite.
    """
    schedule = NoiseSchedule(host.alphas_cumprod)
    parameters = [p for p in network.parameters() if p.requires_grad]
    base_rate = config.learning_rate * width_factor(host)
    optimizer = make_optimizer(config, parameters, base_rate)
    scale = LossScale(enabled=host.needs_loss_scaling)
    skipped, skipped_in_a_row = 0, 0
    for step, turns in enumerate(plan):
        for group in optimizer.param_groups:
            group["lr"] = base_rate * rate_at(step, config)
        loss = _step_loss(
            host, network, pairs=pairs, turns=turns, references=references, schedule=schedule, config=config
        )
        optimizer.zero_grad(set_to_none=True)
        (loss * scale.value).backward()
        loss_value = float(loss.detach())
        gradients = [p.grad for p in parameters if p.grad is not None]
        scale.unscale(gradients)
        finite = math.isfinite(float(torch.stack(torch._foreach_norm(gradients)).sum()))
        scale.update(finite)
        if finite:
            optimizer.step()
        skipped += not finite
        skipped_in_a_row = 0 if finite else skipped_in_a_row + 1
        if skipped_in_a_row == _MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the gradients of the last {skipped_in_a_row} steps were not finite (loss {loss_value:g}), so nothing "
                "was learnt: lower the learning rate, or choose precision fp32."
            )
        yield StepReport(step + 1, len(plan), loss_value, group["lr"], skipped)


def _step_loss(
    host: Host,
    network: LoraNetwork,
    *,
    pairs: Sequence[LatentPair],
    turns: Sequence[Turn],
    references: Mapping[Turn, torch.Tensor],
    schedule: NoiseSchedule,
    config: TrainConfig,
) -> torch.Tensor:
    """The mean loss of one step's turns, all in one forward pass of the student."""
    sides = [pairs[turn.pair].student(turn.direction) for turn in turns]
    noisy_latents, timesteps, cond = noisy_batch(sides, turns, schedule)
    multipliers = [turn_multiplier(turn.direction, config) for turn in turns]
    network.multiplier = torch.tensor(multipliers, device=noisy_latents.device)
    noise_pred = host.predict_noise(noisy_latents, timesteps, cond)
    masks = [pairs[turn.pair].mask for turn in turns]
    mask = None if masks[0] is None else torch.cat([m for m in masks if m is not None])
    loss = difference_loss(
        noise_pred,
        torch.cat([references[turn] for turn in turns]),
        timesteps=timesteps,
        mask=mask,
        schedule=schedule,
        config=config,
    )
    return loss.mean()
