"""The VAE of a world: reconstruction of its pictures, then latents at the scale of SD's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from lib_addift.experiments.worlds.loop import SavedState, optimizer_step, rate_share, run_stage
from lib_addift.experiments.worlds.precision import mixed_precision

_RATE = 1e-3


def train_vae(
    vae: AutoencoderKL, pictures: torch.Tensor, saved: SavedState, *, steps: int, batch: int, seed: int, scale: float
) -> None:
    """L1 reconstruction and a light KL term, in place; at the end latents * scale have mean 0 and variance 1.

    Args:
        pictures: (count, 3, size, size) uint8.
    """
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=_RATE, betas=(0.9, 0.99), weight_decay=1e-4)

    def train_step(step: int) -> str:
        x = _as_floats(pictures[torch.randint(0, len(pictures), (batch,))])
        with mixed_precision():
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample.float()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        # The means over squares bring in colours and shapes before edges.
        l1, coarse = F.l1_loss(y, x), sum(F.l1_loss(F.avg_pool2d(y, n), F.avg_pool2d(x, n)) for n in (4, 16))
        loss = l1 + 4 * F.mse_loss(y, x) + coarse + 3e-4 * kl
        optimizer_step(optimizer, loss, _RATE * rate_share(step, steps, warmup=20))
        if step % 20 and step < steps - 1:
            return ""
        return f"loss {loss.item():.4f} l1 {l1.item():.4f} std {mean.std().item():.2f}"

    run_stage("vae", {"vae": vae, "optimizer": optimizer}, train_step, saved, steps=steps, seed=seed)
    _bring_to_scale(vae, pictures[:512], scale)
    vae.eval()


def _as_floats(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures of 0 .. 255 in -1 .. 1."""
    return (pictures.float() / 127.5 - 1).to(memory_format=torch.channels_last)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """The unscaled means of the latents of pictures (count, 3, size, size) uint8."""
    return torch.cat([vae.encode(_as_floats(chunk)).latent_dist.mean for chunk in pictures.split(32)])


@torch.no_grad()
def _bring_to_scale(vae: AutoencoderKL, pictures: torch.Tensor, scale: float) -> None:
    """Fold mean and spread of the latents into the 1x1 convolutions beside them; reconstructions stay the same."""
    latents = encode(vae, pictures)
    mean = latents.mean(dim=(0, 2, 3))
    gain = 1 / (scale * latents.std(dim=(0, 2, 3)))
    vae.quant_conv.weight[:4] *= gain.view(4, 1, 1, 1)
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) * gain
    vae.quant_conv.bias[4:] += 2 * gain.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight /= gain.view(1, 4, 1, 1)
