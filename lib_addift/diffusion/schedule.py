"""The diffusion noise schedule: how much of the picture is left at each timestep."""

from __future__ import annotations

import torch

_LEAST_ALPHA_CUMPROD = 4.8973451890853435e-08


def scaled_linear_alphas_cumprod() -> torch.Tensor:
    """The 'scaled linear' schedule of SD1.x and SDXL, float32, shape (1000,).

    Source: Rombach et al. 2022, released configuration: linear_start 0.00085, linear_end 0.0120 on the square roots.
    """
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def with_zero_snr(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """A schedule (T,) shifted and scaled so that its last step is pure noise, float32.

    Its last value is 4.9e-8, as in the WebUIs, and not 0, so that every step can be inverted.
    Source: Lin et al. 2024 (Common diffusion noise schedules and sample steps are flawed), algorithm 1.
    """
    roots = alphas_cumprod.double().sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots.square().clamp(min=_LEAST_ALPHA_CUMPROD).float()


class NoiseSchedule:
    """Closed forms of the forward process over `alphas_cumprod` (shape (T,), float)."""

    def __init__(self, alphas_cumprod: torch.Tensor, prediction_type: str = "epsilon") -> None:
        self.alphas_cumprod = alphas_cumprod.detach().float()
        self.is_v = prediction_type == "v_prediction"

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def _at(self, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """alphas_cumprod at (B,) timesteps, shaped to broadcast over `like`."""
        values = self.alphas_cumprod.to(like.device)[timesteps.to(like.device)]
        return values.view(-1, *[1] * (like.ndim - 1))

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """sqrt(abar_t) * latents + sqrt(1 - abar_t) * noise. Source: Ho et al. 2020, eq. 4."""
        abar = self._at(timesteps, latents)
        return abar.sqrt() * latents + (1 - abar).sqrt() * noise

    def output_scale(self, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor | float:
        """What a difference of two epsilons is multiplied with to be one of the model's own outputs; over `like`.

        1 / sqrt(abar) for v: there epsilon hardly depends on the output where nearly all is noise, and not at all where
        a schedule ends in pure noise. Source: Salimans & Ho 2022, appendix D, solved for v.
        """
        return self._at(timesteps, like).rsqrt() if self.is_v else 1.0

    def min_snr_weight(self, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
        """The weight (B,) of each sample's squared error in the model's own terms. Source: Hang et al. 2023, eq. 9."""
        snr = self.snr(timesteps)
        return snr.clamp(max=gamma) / (snr + 1 if self.is_v else snr)

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """abar / (1 - abar) at (B,) timesteps. Source: Kingma et al. 2021, section 3.1."""
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return abar / (1 - abar)
