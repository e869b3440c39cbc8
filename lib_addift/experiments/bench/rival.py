"""The loop of the method's first implementation, as a reference for speed: every step calls the model twice.

Source: hako-mikan, sd-webui-traintrain, its settings for 'action'. The LoRA's layers, the pictures, the model and the
optimizer are those of our own training, so that only the loop differs: one direction a step; the teacher prediction is
made in the step itself; the LoRA is detached and attached; mixed precision by autocast with a gradient scaler; the
loss is read twice; caches are emptied and garbage is collected after every step.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.latents import Direction, encode_pair
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from lib_addift.training.optimizer import make_optimizer


def train_as_rival(host: Host, pictures: ImagePair, config: TrainConfig) -> Iterator[float]:
    """Train on one pair; yields the loss of each step. Call it inside `host.exclusive()`."""
    pair = encode_pair(host, pictures, config)
    modules = select_layers(host.unet, host.lora_name, layers=config.layers, blocks=config.blocks)
    network = LoraNetwork.create(modules, rank=config.rank, alpha=config.alpha, seed=config.seed).to(host.device)
    optimizer = make_optimizer(config, network.parameters(), config.learning_rate)
    steps, lowest = config.max_train_steps, config.learning_rate * config.lr_end_ratio
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, lowest)
    dtype, kind = next(host.unet.parameters()).dtype, host.device.type
    scaler = _gradient_scaler(kind, enabled=dtype is torch.float16)
    schedule = NoiseSchedule(host.alphas_cumprod)
    for step in range(steps):
        if step % 2 == 0:  # both directions share noise and timestep
            noise = torch.randn_like(pair.original.latents)
            timesteps = torch.randint(config.min_timestep, config.max_timestep, (1,), device=host.device)
        direction = Direction.REVERSE if step % 2 else Direction.FORWARD
        reference, student = pair.reference(direction), pair.student(direction)
        with nullcontext() if dtype is torch.float32 else torch.autocast(kind, dtype):
            with torch.no_grad():
                noisy = schedule.add_noise(reference.latents, noise, timesteps)
                wanted = host.predict_noise(noisy, timesteps, reference.cond)
            with network.attach():
                network.multiplier = config.train_multiplier * (-1 if step % 2 else 1)
                noisy = schedule.add_noise(student.latents, noise, timesteps)
                predicted = host.predict_noise(noisy, timesteps, student.cond)
        loss = F.mse_loss(predicted.float(), wanted.float(), reduction="none").mean(dim=(1, 2, 3))
        snr = schedule.snr(timesteps)
        loss = (loss * snr.clamp(max=config.min_snr_gamma) / snr).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
        shown, plotted = loss.item(), loss.item()
        if kind == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.ipc_collect()
        gc.collect()
        yield (shown + plotted) / 2


def _gradient_scaler(kind: str, *, enabled: bool) -> torch.amp.GradScaler:
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(kind, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)  # torch 2.1 and 2.2 have it for this device only
