"""One LoRA from several pairs: their prompts, weights, views, and those that are held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import PictureError
from lib_addift.lora.file import read_lora
from lib_addift.training.dataset import held_out_pairs
from lib_addift.training.events import Request, Stage
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost
from tests.support.training import source

SMALL = {"max_train_steps": 4, "sampling_steps": 2, "rank": 2}


def run(folder: Path, sources: list[PairSource], **settings: Any) -> TrainingRun:
    config = TrainConfig.create("action", **{**SMALL, **settings})
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
        assert list(held_out_pairs(TrainConfig.create("action", hold_out=False), pairs)) == []


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


def test_views_train(tmp_path: Path) -> None:
    training = run(tmp_path, [source(n) for n in range(4)], mirror="on", zoom=1.5, max_train_steps=12)
    list(training.events())
    assert training.results[0].held_out is not None
