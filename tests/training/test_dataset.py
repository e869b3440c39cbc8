"""One LoRA from several pairs: their prompts, weights, views, and those that are held out."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.data.augment import views, views_count
from lib_addift.data.pairs import ImagePair, PairSource, load_pair
from lib_addift.demo import world
from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import PictureError
from lib_addift.evaluation.round_trip import TRIPS, WEIGHTS_TRIED, trip_steps
from lib_addift.lora.file import read_lora
from lib_addift.training.dataset import held_out_pairs
from lib_addift.training.estimate import passes
from lib_addift.training.events import Request, Stage
from lib_addift.training.finish import MEASURED_PAIRS
from lib_addift.training.plan import make_plan
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost

SMALL = {"max_train_steps": 4, "sampling_steps": 2, "rank": 2}


def source(number: int, **particulars: Any) -> PairSource:
    faces = world.Face(hair=world.ATTRIBUTES["hair"][number % 3])
    pictures = [np.asarray(world.draw(dataclasses.replace(faces, eyes=eyes))) for eyes in ("open", "closed")]
    return PairSource(*pictures, name=f"pair{number}", **particulars)


def run(folder: Path, sources: list[PairSource], **settings: Any) -> TrainingRun:
    config = TrainConfig.create(**{**SMALL, **settings})
    return TrainingRun(FakeHost(folder), Request(tuple(sources), "blink", config))


@pytest.mark.parametrize(("pairs", "held_out"), [(1, []), (3, []), (4, [3]), (8, [3, 7]), (11, [3, 7])])
def test_a_quarter_of_four_or_more_pairs_is_measured_on_and_not_trained_on(
    tmp_path: Path, pairs: int, held_out: list[int]
) -> None:
    training = run(tmp_path, [source(number) for number in range(pairs)])
    list(training.events())
    assert list(held_out_pairs(training.config, pairs)) == held_out
    (result,) = training.results
    report = json.loads(read_lora(result.path)[1]["addift.report"])
    assert report.get("pairs", 1) == pairs
    assert (result.held_out is not None) is bool(held_out)
    assert report.get("held_out_pairs", 0) == len(held_out)
    if held_out:
        assert f"{result.held_out:.0%}" in result.verdict
        assert list(held_out_pairs(TrainConfig.create(hold_out=False), pairs)) == []


def test_each_pair_has_its_prompts_and_the_settings_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    encode = FakeHost.encode_prompts

    def spy(self: FakeHost, prompts: Any) -> Conditions:
        asked.append(tuple(prompts))
        return encode(self, prompts)

    monkeypatch.setattr(FakeHost, "encode_prompts", spy)
    sources = [source(0), source(1, original_prompt="a man"), source(2, original_prompt="a", target_prompt="b")]
    list(run(tmp_path, sources, prompt="a face", trigger_word="blnk", preview_prompt="someone").events())
    assert asked[:3] == [("blnk, a face", "blnk, a face"), ("blnk, a man", "blnk, a face"), ("blnk, a", "blnk, b")]
    assert asked[-1] == ("", "blnk, someone")


def test_a_pair_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="pair 'second': the original 'nowhere.png' does not exist"):
        run(tmp_path, [source(0), PairSource("nowhere.png", "other.png", name="second")])


def test_a_pairs_own_mask_goes_before_the_settings(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:32] = 255
    training = run(tmp_path, [source(0, mask=mask), source(1)], mask="off")
    assert training.pairs[0].mask is not None
    assert training.pairs[0].mask[:30].min() == 1
    assert training.pairs[0].mask[34:].max() == 0
    assert training.pairs[1].mask is None
    list(training.events())  # one with a mask and one without


def test_the_weight_of_a_pair_is_that_of_its_loss(tmp_path: Path) -> None:
    losses = []
    for weight in (1.0, 2.0):
        training = run(tmp_path / str(weight), [source(0, weight=weight), source(1)], directions="forward")
        losses.append([event.loss for event in training.events() if hasattr(event, "loss")])
    assert losses[1][0] == pytest.approx(2 * losses[0][0], rel=1e-5)


def test_encoding_says_how_far_it_is(tmp_path: Path) -> None:
    stages = [event for event in run(tmp_path, [source(n) for n in range(3)]).events() if isinstance(event, Stage)]
    assert [(stage.done, stage.total) for stage in stages if stage.text == "encoding the pictures"] == [
        (0, 3), (1, 3), (2, 3)
    ]  # fmt: skip


# Views


def test_mirror_and_zoom_act_on_both_pictures_and_the_mask_alike() -> None:
    pair = load_pair(*dataclasses.astuple(source(0))[:2], TrainConfig.create())
    config = TrainConfig.create(mirror=True, zoom=2.0)
    plain, zoomed, mirrored, both = views(pair, config)
    assert views_count(config) == 4
    assert plain is pair
    for one, other in ((plain, mirrored), (zoomed, both)):
        for part in ("original", "target", "mask"):
            np.testing.assert_array_equal(getattr(one, part)[:, ::-1], getattr(other, part))
    changed = (pair.original != pair.target).any(axis=2).mean()
    assert (zoomed.original != zoomed.target).any(axis=2).mean() > 2 * changed, (
        "it is the changed part that is enlarged"
    )
    assert zoomed.mask is not None
    assert zoomed.mask.mean() > pair.mask.mean()
    same = zoomed.mask < 0.01
    np.testing.assert_array_equal(zoomed.original[same], zoomed.target[same])


def test_a_zoom_at_the_border_stays_in_the_picture() -> None:
    original = np.zeros((64, 128, 3), dtype=np.uint8)
    target, mask = original.copy(), np.zeros((64, 128), dtype=np.float32)
    target[:4, -4:], mask[:4, -4:] = 255, 1
    _, zoomed = views(ImagePair(original, target, mask), TrainConfig.create(zoom=4.0))
    assert zoomed.target.shape == original.shape
    assert zoomed.target[0, -1].min() == 255
    assert zoomed.mask is not None
    assert zoomed.mask[0, -1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("directions", ["both", "alternate"])
def test_every_pair_comes_equally_often_and_every_view_comes(directions: str) -> None:
    config = TrainConfig.create(max_train_steps=240, mirror=True, zoom=2.0, directions=directions)
    samples = [sample for step in make_plan(config, pairs=3, views=4) for sample in step]
    assert set(Counter(sample.pair // 4 for sample in samples).values()) == {len(samples) // 3}
    assert len({sample.pair for sample in samples}) == 12
    by_noise: dict[int, set[tuple[int, int]]] = {}
    for sample in samples:
        by_noise.setdefault(sample.noise_seed, set()).add((sample.pair, sample.timestep))
    assert all(len(each) == 1 for each in by_noise.values()), "both directions of a visit see the same"


def test_views_train(tmp_path: Path) -> None:
    training = run(tmp_path, [source(n) for n in range(4)], mirror=True, zoom=1.5, max_train_steps=12)
    list(training.events())
    assert training.results[0].held_out is not None


# Estimates


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        ({}, 1),
        ({"directions": "alternate", "batch_size": 2}, 1),
        ({"prompt": "a face", "learning_rate": 1e-3, "seed": 1}, 5),
    ],
)
def test_the_passes_counted_are_those_that_a_run_takes(tmp_path: Path, settings: dict[str, Any], pairs: int) -> None:
    """But for the round trip's, which tries more weights here than of a LoRA that learnt something."""
    samples = 0

    class CountingHost(FakeHost):
        def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
            nonlocal samples
            samples += len(latents) * (2 if torch.is_grad_enabled() else 1)  # backward costs about as much
            return super().predict_noise(latents, timesteps, cond)

    config = TrainConfig.create(**{"max_train_steps": 6, "sampling_steps": 3, "preview_every": 2, **settings})
    sources = tuple(source(number) for number in range(pairs))
    training = TrainingRun(CountingHost(tmp_path), Request(sources, "blink", config), keep_snapshots=True)
    list(training.events())
    tried = len(training.results[0].round_trip.curve)
    assert tried > WEIGHTS_TRIED
    proven = min(pairs - len(held_out_pairs(config, pairs)), MEASURED_PAIRS)
    more = (tried - WEIGHTS_TRIED) * proven * len(TRIPS) * trip_steps(config)
    assert passes(config, pairs) + more == pytest.approx(samples, rel=0.02)
