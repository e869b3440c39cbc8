from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.host import to_epsilon
from lib_addift.diffusion.schedule import NoiseSchedule, scaled_linear_alphas_cumprod, with_zero_snr
from lib_addift.training.loss import LossScale, difference_loss


def reference_loss(config: TrainConfig, prediction, reference, timesteps, mask) -> np.ndarray:
    """The same loss, written again in numpy and float64."""
    betas = np.linspace(0.00085**0.5, 0.0120**0.5, 1000) ** 2
    abar = np.cumprod(1 - betas)[timesteps]
    difference = prediction - reference
    if config.loss == "mse":
        values = difference**2
    elif config.loss == "l1":
        values = np.abs(difference)
    else:
        d = config.huber_delta
        values = np.where(np.abs(difference) <= d, 0.5 * difference**2, d * (np.abs(difference) - 0.5 * d))
    if mask is not None:
        area = mask.sum(axis=(1, 2, 3)) * values.shape[1]
        result = (values * mask).sum(axis=(1, 2, 3)) / area
    else:
        result = values.mean(axis=(1, 2, 3))
    if config.min_snr_gamma:
        snr = abar / (1 - abar)
        result = result * np.minimum(config.min_snr_gamma / snr, 1)
    return result


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 5.0])
def test_against_an_independent_float64_computation(loss: str, masked: bool, gamma: float) -> None:
    rng = np.random.default_rng(0)
    config = TrainConfig.create("action", loss=loss, min_snr_gamma=gamma, huber_delta=0.5)
    prediction, reference = rng.normal(size=(2, 3, 4, 8, 6))
    mask = rng.uniform(0.1, 1, size=(3, 1, 8, 6)) if masked else None
    timesteps = np.array([10, 400, 999])
    result = difference_loss(
        torch.from_numpy(prediction),
        torch.from_numpy(reference),
        timesteps=torch.from_numpy(timesteps),
        mask=None if mask is None else torch.from_numpy(mask),
        schedule=NoiseSchedule(scaled_linear_alphas_cumprod()),
        config=config,
    )
    expected = reference_loss(config, prediction, reference, timesteps, mask)
    np.testing.assert_allclose(result.numpy(), expected, rtol=2e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 5.0])
def test_v_predictions_are_compared_as_v_up_to_pure_noise(zero_snr: bool, gamma: float) -> None:
    """From the model's outputs to the loss in float32, against the same in float64, without epsilon on the way.

    Of the same noise e, v = sqrt(abar) e - sqrt(1 - abar) x: the target of one picture, seen from the other one, is the
    model's v for it minus sqrt(1 - abar) times the pictures' difference.
    """
    rng = np.random.default_rng(0)
    alphas_cumprod = scaled_linear_alphas_cumprod()
    alphas_cumprod = with_zero_snr(alphas_cumprod) if zero_snr else alphas_cumprod
    timesteps = torch.tensor([10, 500, 900, 999])
    abar = alphas_cumprod[timesteps].double().numpy()[:, None, None, None]
    seen, other, noise, v_student, v_teacher = rng.normal(size=(5, 4, 4, 8, 6))
    gap = v_student - v_teacher + np.sqrt(1 - abar) * (seen - other)
    snr = (abar / (1 - abar))[:, 0, 0, 0]
    weight = np.minimum(gamma, snr) / (snr + 1) if gamma else 1.0
    schedule = NoiseSchedule(alphas_cumprod, "v_prediction")

    def epsilon(latents: np.ndarray, v: np.ndarray) -> torch.Tensor:
        noisy = schedule.add_noise(torch.from_numpy(latents).float(), torch.from_numpy(noise).float(), timesteps)
        return to_epsilon(torch.from_numpy(v).float(), noisy, alphas_cumprod[timesteps], "v_prediction")

    result = difference_loss(
        epsilon(seen, v_student), epsilon(other, v_teacher), timesteps=timesteps, mask=None, schedule=schedule,
        config=TrainConfig.create("action", min_snr_gamma=gamma),
    )  # fmt: skip
    np.testing.assert_allclose(result.numpy(), weight * (gap**2).mean(axis=(1, 2, 3)), rtol=1e-3)


def test_mask_is_normalised_by_area() -> None:
    """The same error under a small and under a large mask gives the same loss."""
    prediction, reference = torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    mask = torch.full((2, 1, 8, 8), 1e-9)
    mask[0, :, :2, :2] = 1
    mask[1] = 1
    timesteps = torch.tensor([500, 500])
    schedule = NoiseSchedule(scaled_linear_alphas_cumprod())
    loss = difference_loss(
        prediction, reference, timesteps=timesteps, mask=mask, schedule=schedule, config=TrainConfig.create("action")
    )
    torch.testing.assert_close(loss[0], loss[1])


def test_loss_scale_shrinks_on_overflow_and_grows_again() -> None:
    scale = LossScale(enabled=True)
    start = scale.value
    scale.update(finite=False)
    assert scale.value == start / 4
    for _ in range(20):
        scale.update(finite=True)
    assert scale.value == start / 2
    gradient = torch.full((3,), scale.value)
    scale.unscale([gradient])
    assert torch.equal(gradient, torch.ones(3))
