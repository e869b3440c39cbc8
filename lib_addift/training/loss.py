"""What a step minimises, one equation a function; and the scaling of the loss for fp16."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.schedule import NoiseSchedule


def difference_loss(
    noise_pred: torch.Tensor,
    target: torch.Tensor,
    *,
    timesteps: torch.Tensor,
    mask: torch.Tensor | None,
    schedule: NoiseSchedule,
    config: TrainConfig,
) -> torch.Tensor:
    """The loss of each sample, shape (B,): how far the LoRA's prediction is from the frozen one for the other picture.

    `noise_pred` and `target` are (B, C, H, W) epsilons; `mask` is (B, 1, H, W) weights or None. A v-prediction model's
    are compared as v.
    The mask's weights are normalised to mean 1 per sample, so that a small changed area learns as fast as a large one.
    Source: ADDifT.
    """
    scale = schedule.output_scale(timesteps, noise_pred)
    loss = _elementwise(noise_pred.float() * scale, target.float() * scale, config)
    if mask is not None:
        loss = loss * (mask / mask.mean(dim=(1, 2, 3), keepdim=True))
    loss = loss.mean(dim=(1, 2, 3))
    if config.min_snr_gamma > 0:
        loss = loss * schedule.min_snr_weight(timesteps, config.min_snr_gamma)
    return loss


def _elementwise(prediction: torch.Tensor, target: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    if config.loss == "l1":
        return F.l1_loss(prediction, target, reduction="none")
    if config.loss == "huber":
        return F.huber_loss(prediction, target, reduction="none", delta=config.huber_delta)
    return F.mse_loss(prediction, target, reduction="none")


class LossScale:
    """Dynamic loss scaling, so that fp16 gradients neither vanish nor overflow; 1 and fixed for other dtypes.

    Source: Micikevicius et al. 2018, section 3.2.
    """

    _GROW_AFTER = 20  # steps without overflow; runs are short

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.value = 2.0**14 if enabled else 1.0
        self._good_steps = 0

    def state(self) -> list[float]:
        return [self.value, self._good_steps]

    def restore(self, state: Sequence[float]) -> None:
        self.value, self._good_steps = float(state[0]), int(state[1])

    def unscale(self, gradients: Iterable[torch.Tensor]) -> None:
        if self.enabled:
            torch._foreach_mul_(list(gradients), 1 / self.value)

    def update(self, finite: bool) -> None:
        if not self.enabled:
            return
        self._good_steps = self._good_steps + 1 if finite else 0
        if not finite:
            self.value /= 4
        elif self._good_steps % self._GROW_AFTER == 0:
            self.value *= 2
