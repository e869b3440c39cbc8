"""The schedule of the noise against diffusers'."""

import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr

from lib_addift.diffusion.schedule import NoiseSchedule, scaled_linear_alphas_cumprod, with_zero_snr

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_noise_as_diffusers_adds_it() -> None:
    latents, noise = torch.randn(2, 3, 4, 8, 8)
    timesteps = torch.tensor([0, 500, 999])
    theirs = DDPMScheduler(**SD15)
    torch.testing.assert_close(scaled_linear_alphas_cumprod(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)
    ours = NoiseSchedule(scaled_linear_alphas_cumprod()).add_noise(latents, noise, timesteps)
    torch.testing.assert_close(ours, theirs.add_noise(latents, noise, timesteps), rtol=1e-4, atol=1e-4)


def test_zero_terminal_snr_agrees_with_diffusers() -> None:
    plain = scaled_linear_alphas_cumprod()
    betas = 1 - plain / torch.cat([torch.ones(1), plain[:-1]])
    theirs = torch.cumprod(1 - rescale_zero_terminal_snr(betas), dim=0)
    ours = with_zero_snr(plain)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours[0] == plain[0]
    assert 0 < ours[-1] < 1e-7
