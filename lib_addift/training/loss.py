"""What a step minimises: one equation, one function."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction
from lib_addift.diffusion.schedule import NoiseSchedule


def turn_multiplier(direction: Direction, config: TrainConfig) -> float:
    """The LoRA's multiplier in a turn: +m forward, -m * reverse_ratio in reverse. Source: ADDifT, hako-mikan 2024."""
    if direction is Direction.FORWARD:
        return config.train_multiplier
    return -config.train_multiplier * config.reverse_ratio


def difference_loss(
    noise_pred: torch.Tensor,
    reference_noise_pred: torch.Tensor,
    *,
    timesteps: torch.Tensor,
    mask: torch.Tensor | None,
    schedule: NoiseSchedule,
    config: TrainConfig,
) -> torch.Tensor:
    """The loss of each sample, shape (B,): how far the LoRA's prediction is from the frozen one for the other picture.

    `noise_pred` and `reference_noise_pred` are (B, C, H, W) epsilons; `mask` is (B, 1, H, W) weights or None.
    The mask's weights are normalised to mean 1 per sample, so that a small changed area learns as fast as a large one.
    Source: ADDifT; min-SNR weights: Hang et al. 2023, eq. 9.
    """
    loss = _elementwise(noise_pred.float(), reference_noise_pred.float(), config)
    if mask is not None:
        loss = loss * (mask / mask.mean(dim=(1, 2, 3), keepdim=True))
    loss = loss.mean(dim=(1, 2, 3))
    if config.min_snr_gamma > 0:
        snr = schedule.snr(timesteps)
        loss = loss * (snr.clamp(max=config.min_snr_gamma) / snr)
    return loss


def _elementwise(prediction: torch.Tensor, reference: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    if config.loss == "l1":
        return F.l1_loss(prediction, reference, reduction="none")
    if config.loss == "huber":
        return F.huber_loss(prediction, reference, reduction="none", delta=config.huber_delta)
    return F.mse_loss(prediction, reference, reduction="none")
