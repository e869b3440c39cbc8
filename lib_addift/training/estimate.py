"""How long a run will take here: its work counted in passes of one sample through the UNet, times a measured pass."""

from __future__ import annotations

import time

import torch

from lib_addift.config.recipes import recipes
from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.host import Model
from lib_addift.evaluation.new_pictures import drawn_size, picture_passes
from lib_addift.evaluation.preview import WEIGHTS
from lib_addift.evaluation.round_trip import TRIPS, WEIGHTS_TRIED, trip_steps
from lib_addift.evaluation.weight import fixed_weight
from lib_addift.training.dataset import held_out_pairs
from lib_addift.training.events import snapshot_spacing
from lib_addift.training.finish import MEASURED_PAIRS, picture_budget
from lib_addift.training.passes import learning_passes

_ROUND_TRIP_PICTURES = 4


def passes(config: TrainConfig, pairs: int = 1, *, keep_snapshots: bool = True) -> float:
    """The passes of one sample that a run of so many pairs takes, from the first prediction to the saved file.

    A search measures each of its recipes, and keeps no snapshots.
    """
    learning = learning_passes(config, pairs - len(held_out_pairs(config, pairs)))
    spacing = snapshot_spacing(config) if keep_snapshots else 0
    strips = (config.max_train_steps - 1) // spacing if spacing else 0  # the last step's is the finished LoRA's
    return learning + strips * _strip_passes(config) + passes_after_training(config, pairs)


def passes_after_training(config: TrainConfig, pairs: int = 1) -> float:
    """Those of them that follow the last training step: the LoRA is measured and drawn."""
    held = len(held_out_pairs(config, pairs))
    probes = len(TRIPS) * trip_steps(config)  # for each pair and weight of the round trip
    weights = WEIGHTS_TRIED if fixed_weight(config) is None else 1
    trips = probes * (weights + 1) * min(pairs - held, MEASURED_PAIRS)
    evaluation = trips + _new_picture_passes(config, pairs - held)
    measured = len(recipes(config)) if config.search else 1
    shown = _strip_passes(config) + _ROUND_TRIP_PICTURES * config.sampling_steps
    return measured * evaluation + held * 2 * probes + shown


def _strip_passes(config: TrainConfig) -> int:
    """Those of a preview strip."""
    is_guided = bool(config.preview_prompt or config.prompt or config.trigger_word) and config.preview_cfg_scale > 1
    return len(WEIGHTS) * config.sampling_steps * (2 if is_guided else 1)


def _new_picture_passes(config: TrainConfig, pairs: int) -> float:
    """Those of the new pictures, with as many weights as may be looked at."""
    count, steps = drawn_size(config, picture_budget(config, pairs))
    return count * picture_passes(config, steps)


def about(seconds: float) -> str:
    """'about 12 s', 'about 4 min', 'about 2.5 h'."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


@torch.no_grad()
def seconds_a_pass(model: Model, size: tuple[int, int], batch: int = 8) -> float:
    """Measure one sample's pass for pictures of `size` (width, height in px); the model must be ours (`exclusive`)."""
    width, height = size
    scale = model.pixels_per_latent
    latents = torch.zeros(batch, model.latent_channels, height // scale, width // scale, device=model.device)
    cond = model.encode_prompts([""]).expand(batch)
    timesteps = torch.full((batch,), 500, device=model.device)
    for _ in range(2):  # the first one warms up
        begun = time.monotonic()
        float(model.predict_noise(latents, timesteps, cond).sum())  # a number waits for the GPU
        seconds = time.monotonic() - begun
    return seconds / batch
