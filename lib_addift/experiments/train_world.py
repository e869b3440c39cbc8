"""Trains the bundled checkpoint: `python -m lib_addift.experiments.train_world --out world.safetensors`.

Three stages on generated pictures: the VAE, then its latents are brought to SD's scale by an exact change of basis,
then the text model and the UNet together by denoising. Everything is seeded; figures go to stdout and into the file's
metadata. Needs diffusers and transformers; takes about 90 minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from lib_addift.demo import world
from lib_addift.diffusion.schedule import NoiseSchedule, sd15_alphas_cumprod
from lib_addift.experiments.world_checkpoint import (
    SCALE_FACTOR,
    TEXT_WIDTH,
    build_text_model,
    build_unet,
    build_vae,
    save_checkpoint,
)
from lib_addift.hosts.checkpoint import read_checkpoint
from lib_addift.hosts.tokenizer import load_tokenizer

TEXT_STEPS = 500
_PHRASE_ENDS = {
    name: world.phrase(name, "").strip() for name in world.ATTRIBUTES
}  # in captions that name the attribute
OMIT_RATE = 0.2  # share of attributes left out of a caption
EMPTY_RATE = 0.1  # share of empty captions, for classifier-free guidance


def pictures(count: int, seed: int) -> tuple[torch.Tensor, list[world.Face]]:
    """Random faces: pictures (count, 3, 64, 64) in -1 .. 1, and their attributes."""
    rng = random.Random(seed)
    faces = [world.random_face(rng) for _ in range(count)]
    pixels = np.stack([np.asarray(world.draw(face)) for face in faces])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, faces


def _cosine(step: int, steps: int, warmup: int = 100) -> float:
    """The share of the learning rate at a step: a linear warm-up, then half a cosine down to 0.001."""
    return min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / steps)) + 1e-3


def _optimizer_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """One step at the learning rate `rate`, with gradients clipped to norm 1."""
    (group,) = optimizer.param_groups
    group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()


def train_vae(steps: int, batch: int, seed: int) -> AutoencoderKL:
    """L1 reconstruction and a light KL term; at the end latents * SCALE_FACTOR have mean 0 and variance 1."""
    torch.manual_seed(seed)
    data, _ = pictures(4096, seed)
    vae = build_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    start = time.monotonic()
    for step in range(steps):
        x = data[torch.randint(0, len(data), (batch,))].to(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        # The mean over 4 x 4 px brings in colours and shapes before edges.
        loss = F.l1_loss(y, x) + 4 * F.mse_loss(y, x) + F.l1_loss(F.avg_pool2d(y, 4), F.avg_pool2d(x, 4)) + 3e-4 * kl
        _optimizer_step(optimizer, loss, 2e-3 * _cosine(step, steps))
        if step % 50 == 0 or step == steps - 1:
            std = posterior.mean.std().item()
            print(
                f"vae {step}/{steps} loss {loss.item():.4f} l1 {F.l1_loss(y, x).item():.4f} std {std:.2f} "
                f"sigma {posterior.std.mean().item():.3f} {time.monotonic() - start:.0f} s", flush=True,
            )  # fmt: skip
    _bring_to_scale(vae, data[:1024])
    return vae.eval()


@torch.no_grad()
def _bring_to_scale(vae: AutoencoderKL, data: torch.Tensor) -> None:
    """Fold mean and spread of the latents into the 1x1 convolutions beside them; reconstructions stay the same."""
    latents = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in data.split(64)])
    mean = latents.mean(dim=(0, 2, 3))
    gain = 1 / (SCALE_FACTOR * latents.std(dim=(0, 2, 3)))
    vae.quant_conv.weight[:4] *= gain.view(4, 1, 1, 1)
    vae.quant_conv.bias[:4] = (vae.quant_conv.bias[:4] - mean) * gain
    vae.quant_conv.bias[4:] += 2 * gain.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight /= gain.view(1, 4, 1, 1)


def _random_caption(face: world.Face, rng: random.Random) -> str:
    if rng.random() < EMPTY_RATE:
        return ""
    return world.caption(face, frozenset(name for name in world.ATTRIBUTES if rng.random() < OMIT_RATE))


@torch.no_grad()
def _latents(vae: AutoencoderKL, seed: int) -> tuple[torch.Tensor, list[world.Face]]:
    """The scaled latents (8192, 4, 8, 8) of random faces, and their attributes."""
    data, faces = pictures(8192, seed)
    return torch.cat([vae.encode(chunk).latent_dist.mean for chunk in data.split(64)]) * SCALE_FACTOR, faces


def train_unet(
    vae: AutoencoderKL, *, steps: int, batch: int, seed: int, keep: Path | None, init: Path | None
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Denoising with epsilon prediction; returns averaged (EMA) weights.

    Without `init`, min-SNR weights (gamma 5) make good pictures fast, but the text is hardly used. Continuing from the
    checkpoint `init`, high noise gets more weight: there the content is decided, so only there the text matters.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    latents, faces = _latents(vae, seed + 1)
    tokenize = load_tokenizer()
    schedule = NoiseSchedule(sd15_alphas_cumprod())
    unet, text = build_unet().to(memory_format=torch.channels_last), build_text_model()
    if init is not None:
        parts = read_checkpoint(init)
        unet.load_state_dict(parts.unet)
        text.load_state_dict(parts.text)
    pretrain_text(text, TEXT_STEPS, batch // 2, seed)
    parameters = [*unet.parameters(), *text.parameters()]
    averaged = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    start, mean_loss = time.monotonic(), 1.0
    for step in range(steps):
        index = torch.randint(0, len(latents), (batch // 2,))
        captions = [_random_caption(faces[i], rng) for i in index.tolist()]
        # Each picture and caption gets two timesteps, because the text model takes a third of the time.
        cond = text(input_ids=tokenize(captions)[:, 0]).last_hidden_state.repeat(2, 1, 1)
        clean = latents[index].repeat(2, 1, 1, 1).to(memory_format=torch.channels_last)
        noise, timesteps = torch.randn(batch, 4, 8, 8), torch.randint(0, 1000, (batch,))
        noise_pred = unet(schedule.add_noise(clean, noise, timesteps), timesteps, cond).sample
        snr = schedule.snr(timesteps)
        weight = snr.clamp(max=5.0) / snr
        if init is not None:
            weight += (1 / snr).clamp(max=20.0)
        loss = (weight * (noise_pred - noise).square().mean(dim=(1, 2, 3))).mean()
        _optimizer_step(optimizer, loss, 1.5e-3 * _cosine(step, steps))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - min(0.999, (step + 1) / (step + 10)))
        mean_loss += 0.02 * (loss.item() - mean_loss)
        if step % 100 == 0 or step == steps - 1:
            print(f"unet {step}/{steps} loss {mean_loss:.4f} {time.monotonic() - start:.0f} s", flush=True)
        if keep is not None and step % 400 == 399:
            unet_now, text_now = copy.deepcopy(unet), copy.deepcopy(text)
            _load(unet_now, text_now, averaged)
            save_checkpoint(keep, unet_now, vae, text_now, {"steps": str(step + 1)})
    _load(unet, text, averaged)
    return unet.eval(), text.eval()


def pretrain_text(text: CLIPTextModel, steps: int, batch: int, seed: int) -> None:
    """Teach the text model what captions say, as CLIP's training on pictures would have.

    A linear classifier on the mean over the padding tokens must predict each attribute's value, or that the caption
    omits it. An untrained cross attention averages all tokens, most of them padding, so a single word is lost in it.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenize = load_tokenizer()
    readers = torch.nn.ModuleList(torch.nn.Linear(TEXT_WIDTH, len(v) + 1) for v in world.ATTRIBUTES.values())
    parameters = [*text.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    for step in range(steps):
        faces = [world.random_face(rng) for _ in range(batch)]
        captions = [_random_caption(face, rng) for face in faces]
        padding = text(input_ids=tokenize(captions)[:, 0]).last_hidden_state[:, 45:].mean(dim=1)
        loss = torch.zeros(())
        hits = 0
        for reader, (name, values) in zip(readers, world.ATTRIBUTES.items(), strict=True):
            said = [
                values.index(getattr(face, name)) if _PHRASE_ENDS[name] in text_ else len(values)
                for face, text_ in zip(faces, captions, strict=True)
            ]
            logits = reader(padding)
            loss = loss + F.cross_entropy(logits, torch.tensor(said))
            hits += int((logits.argmax(dim=1) == torch.tensor(said)).sum())
        _optimizer_step(optimizer, loss, 2e-3 * _cosine(step, steps, warmup=20))
        if step % 50 == 0 or step == steps - 1:
            print(f"text {step}/{steps} loss {loss.item():.3f} hits {hits / batch / len(readers):.3f}", flush=True)


@torch.no_grad()
def _load(unet: torch.nn.Module, text: torch.nn.Module, values: list[torch.Tensor]) -> None:
    for parameter, value in zip([*unet.parameters(), *text.parameters()], values, strict=True):
        parameter.copy_(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vae-steps", type=int, default=700)
    parser.add_argument("--vae-batch", type=int, default=16)
    parser.add_argument("--unet-steps", type=int, default=3800)
    parser.add_argument("--unet-batch", type=int, default=64)
    parser.add_argument("--vae", type=Path, help="reuse the VAE of an earlier run (its .vae.pt file)")
    parser.add_argument("--init", type=Path, help="continue from the UNet and text model of this checkpoint")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    start = time.monotonic()
    vae = build_vae()
    if options.vae:
        vae.load_state_dict(torch.load(options.vae))
    else:
        vae = train_vae(options.vae_steps, options.vae_batch, options.seed)
        torch.save(vae.state_dict(), options.out.with_suffix(".vae.pt"))
    keep = options.out.with_suffix(".part.safetensors")
    unet, text = train_unet(
        vae, steps=options.unet_steps, batch=options.unet_batch, seed=options.seed, keep=keep, init=options.init
    )
    figures = {k: v for k, v in vars(options).items() if isinstance(v, int)} | {
        "seconds": round(time.monotonic() - start)
    }
    save_checkpoint(options.out, unet, vae, text, {"addift.world": json.dumps(figures)})
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
