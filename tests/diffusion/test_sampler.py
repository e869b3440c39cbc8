"""The sampler against diffusers'."""

import pytest
import torch
from diffusers import DDIMScheduler

from lib_addift.diffusion.conditions import Conditions
from lib_addift.diffusion.sampler import Guidance, ddim, ddim_inversion, ddim_timesteps
from tests.support.fake_host import FakeHost

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_ddim_as_diffusers_samples(strength: float) -> None:
    host, cond = FakeHost(), Conditions(torch.randn(1, 5, 6))
    timesteps = ddim_timesteps(10, strength)
    assert len(timesteps) == 10
    assert timesteps == sorted(set(timesteps), reverse=True)
    start = torch.randn(1, 4, 8, 8)
    ours = ddim(host, start, cond, timesteps)
    scheduler = DDIMScheduler(**SD15, clip_sample=False)
    latents = start
    for now, after in zip(timesteps, [*timesteps[1:], -1], strict=True):
        noise_pred = host.predict_noise(latents, torch.tensor([now]), cond)
        # diffusers steps by a constant stride; ask it for the one we take.
        scheduler.num_inference_steps = 1
        scheduler.config.num_train_timesteps = now - after
        scheduler.final_alpha_cumprod = torch.tensor(1.0)
        latents = scheduler.step(noise_pred, now, latents).prev_sample
    torch.testing.assert_close(ours, latents, rtol=1e-3, atol=1e-3)


def test_guidance_scale_1_is_no_guidance() -> None:
    host = FakeHost()
    cond, uncond = Conditions(torch.randn(2, 5, 6)), Conditions(torch.randn(1, 5, 6))
    start = torch.randn(2, 4, 8, 8)
    plain = ddim(host, start, cond, ddim_timesteps(4))
    guided = ddim(host, start, cond, ddim_timesteps(4), guidance=Guidance(uncond, 1.0))
    torch.testing.assert_close(plain, guided, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, ddim(host, start, cond, ddim_timesteps(4), guidance=Guidance(uncond, 3.0)))


def test_what_comes_after_each_step_is_what_the_next_one_sees() -> None:
    host, cond, start = FakeHost(), Conditions(torch.randn(1, 5, 6)), torch.randn(1, 4, 8, 8)
    seen: list[torch.Tensor] = []

    def keep_half(latents: torch.Tensor) -> torch.Tensor:
        seen.append(latents)
        return torch.cat([latents[..., :4], torch.zeros_like(latents[..., 4:])], dim=-1)

    end = ddim(host, start, cond, ddim_timesteps(3), after_step=keep_half)
    assert len(seen) == 3
    assert end[..., 4:].abs().max() == 0
    assert torch.equal(end[..., :4], seen[-1][..., :4])


@pytest.mark.parametrize("steps", [50, 200])
def test_inverted_latents_are_drawn_as_they_were(steps: int) -> None:
    """The more steps, the nearer (a first-order method)."""
    host, cond = FakeHost(), Conditions(torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)))
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    timesteps = ddim_timesteps(steps, 0.8)
    noisy = ddim_inversion(host, clean, cond, timesteps)
    assert len(noisy) == steps
    again = ddim(host, noisy[0], cond, timesteps)
    assert (again - clean).abs().mean() < 10 / steps
    middle = ddim(host, noisy[steps // 2], cond, timesteps[steps // 2 :])
    assert (middle - clean).abs().mean() < 10 / steps
