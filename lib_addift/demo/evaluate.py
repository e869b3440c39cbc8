"""Measures a LoRA on new faces: drawn from prompts that do not mention its attribute, and read by the detectors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lib_addift.demo import world
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.sampler import Guidance, ddim, ddim_timesteps
from lib_addift.lora.network import LoraNetwork

_SAMPLING_STEPS = 20
_GUIDANCE = 4.0


def evaluation_faces(count: int, seed: int, excluded: Sequence[world.Face]) -> list[world.Face]:
    """Random faces of which none has all the attributes of one of `excluded` (the training pair)."""
    seen = [face.attributes() for face in excluded]
    rng = random.Random(seed)
    faces: list[world.Face] = []
    while len(faces) < count:
        face = world.random_face(rng)
        if face.attributes() not in seen:
            faces.append(face)
    return faces


def draw_prompts(
    host: Host,
    prompts: Sequence[str],
    seed: int,
    network: LoraNetwork | None = None,
    weight: float = 0.0,
    *,
    steps: int = _SAMPLING_STEPS,
) -> np.ndarray:
    """One 64 x 64 picture for each prompt, (B, 64, 64, 3) uint8; picture n starts from noise n of `seed` always."""
    latents = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator("cpu").manual_seed(seed)).to(host.device)
    if network is not None:
        network.multiplier = weight  # it is attached, and may act on the text model
    cond, uncond = host.encode_prompts(list(prompts)), host.encode_prompts([""])
    clean = ddim(
        host, latents, cond, ddim_timesteps(steps), network=network,
        multipliers=torch.full((len(prompts),), weight, device=host.device), guidance=Guidance(uncond, _GUIDANCE),
    )  # fmt: skip
    return host.decode_latents(clean)


@dataclass(frozen=True)
class Scores:
    """Rates over the evaluated faces, 0 to 1; `pictures` by weight, each (faces, 64, 64, 3) uint8."""

    base_rate: float  # share that shows the value without LoRA
    target_rate: float  # at weight 1
    reverse_rate: float  # at weight -1
    off_target_change: float  # share in which any other attribute differs between weight 0 and weight 1
    pictures: dict[float, np.ndarray]


def evaluate(
    host: Host, network: LoraNetwork, faces: Sequence[world.Face], *, attribute: str, value: str, seed: int
) -> Scores:
    """Draw `faces` at weights 0, 1 and -1 of `network` (not yet attached) and detect their attributes."""
    prompts = [world.caption(face, frozenset({attribute})) for face in faces]
    with host.exclusive(), network.attach():
        pictures = {weight: draw_prompts(host, prompts, seed, network, weight) for weight in (0.0, 1.0, -1.0)}
    readings = {weight: [world.detect(picture) for picture in batch] for weight, batch in pictures.items()}

    def rate(weight: float) -> float:
        return sum(reading[attribute] == value for reading in readings[weight]) / len(faces)

    def changed() -> float:
        others = [name for name in world.ATTRIBUTES if name != attribute]
        pairs = zip(readings[0.0], readings[1.0], strict=True)
        return sum(any(before[name] != after[name] for name in others) for before, after in pairs) / len(faces)

    return Scores(rate(0.0), rate(1.0), rate(-1.0), changed(), pictures)
