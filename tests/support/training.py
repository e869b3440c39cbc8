"""Training states, pairs and their latents for the tests of training, and runs without the work after the last step."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lib_addift.training.finish
import lib_addift.training.run
from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import ImagePair, PairSource
from lib_addift.demo import world
from lib_addift.diffusion.latents import LatentPair, encode_pair
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.evaluation.weight import Choice, without_pictures
from lib_addift.lora.network import LoraNetwork
from lib_addift.lora.selection import select_layers
from lib_addift.training.loop import train_one
from lib_addift.training.methods import method_of
from lib_addift.training.plan import plan_phases, teacher_samples
from lib_addift.training.state import StepReport, TrainState
from lib_addift.training.targets import TeacherPredictions
from tests.support.fake_host import FakeHost

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))


def make_state(host: FakeHost, pairs: list[LatentPair], config: TrainConfig) -> TrainState:
    plans = plan_phases(config, method_of(config).phases(config, len(pairs)), pairs)
    teacher = TeacherPredictions(host, pairs, teacher_samples(plans), config.reference_batch_size)
    networks = [make_network(host, config) for _ in range(1 + max(phase_plan.phase.network for phase_plan in plans))]
    return TrainState(host, networks, plans=plans, pairs=pairs, teacher=teacher, config=config)


def make_network(host: FakeHost, config: TrainConfig) -> LoraNetwork:
    modules = select_layers(host.unet, host.lora_name, layers=config.layers, blocks=config.blocks)
    return LoraNetwork.create(modules, rank=config.rank, alpha=config.alpha, seed=config.seed)


def pair_of(host: FakeHost, config: TrainConfig, seed: int, size: int = 64, weight: float = 1.0) -> LatentPair:
    pictures = np.random.default_rng(seed).integers(0, 256, (2, size, 64, 3)).astype(np.uint8)
    return encode_pair(host, ImagePair(*pictures, mask=None), config, weight=weight)


def skip_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end at once after their last step: with an evaluation that is made up, and empty pictures."""

    def choose(*given: Any, **_: Any) -> tuple[Choice, None]:
        *_, trip, config = given
        return without_pictures(trip, config), None

    monkeypatch.setattr(lib_addift.training.finish, "_choose", choose)
    monkeypatch.setattr(lib_addift.training.finish, "round_trip", lambda *_: RoundTrip(0.8, 1.0, ()))
    for module, drawing in (
        (lib_addift.training.run, "preview_strip"),
        (lib_addift.training.finish, "preview_strip"),
        (lib_addift.training.finish, "round_trip_pictures"),
    ):
        monkeypatch.setattr(module, drawing, lambda *_: Image.new("RGB", (64, 64)))


def run(
    config: TrainConfig, *, swapped: bool = False, host: FakeHost | None = None
) -> tuple[LoraNetwork, list[StepReport]]:
    host = host or FakeHost()
    pictures = (TARGET, ORIGINAL) if swapped else (ORIGINAL, TARGET)
    pair = encode_pair(host, ImagePair(*pictures, mask=None), config)
    state = make_state(host, [pair], config)
    return state.network, list(train_one(host, state))


def pairs_of(host: FakeHost, config: TrainConfig, count: int = 1) -> list[LatentPair]:
    pictures = np.random.default_rng(7).integers(0, 256, (count, 2, 64, 64, 3)).astype(np.uint8)
    return [encode_pair(host, ImagePair(*pair, mask=None), config) for pair in pictures]


def delta(network: LoraNetwork) -> dict[str, torch.Tensor]:
    """What each layer adds to its weight at multiplier 1, (out, in * k * k)."""
    return {
        name: layer.lora_up.flatten(1) @ layer.lora_down.flatten(1) * layer.scale
        for name, layer in network.layers.items()
    }


def pictures(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    both = np.random.default_rng(seed).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    return both[0], both[1]


def source(number: int, **particulars: Any) -> PairSource:
    faces = world.Face(hair=world.ATTRIBUTES["hair"][number % 3])
    pictures = [np.asarray(world.draw(dataclasses.replace(faces, eyes=eyes))) for eyes in ("open", "closed")]
    return PairSource(*pictures, name=f"pair{number}", **particulars)
