"""What is refused before any work starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.demo import world
from lib_addift.errors import ConfigError, LoraFileError, PictureError
from lib_addift.training.events import Request
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost
from tests.support.runs import files, start
from tests.support.training import pictures

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
QUICK = {"max_train_steps": 4, "sampling_steps": 2, "rank": 2, "learning_rate": 1e-3, "mask": "off"}


def test_an_existing_name_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "blink.safetensors").write_bytes(b"precious")
    host = FakeHost(tmp_path)
    with pytest.raises(LoraFileError, match="already has 'blink.safetensors'"):
        start(host)
    assert host.calls == 0
    assert (tmp_path / "blink.safetensors").read_bytes() == b"precious"
    assert files(tmp_path) == ["blink.safetensors"]


@pytest.mark.parametrize("name", ["a/b", "..", "", "con", "x" * 300, "\U0001f600" * 80])
def test_a_bad_name_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    host = FakeHost(tmp_path)
    with pytest.raises(LoraFileError):
        start(host, name)
    assert host.calls == 0
    assert files(tmp_path) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Lora").write_text("no folder")
    with pytest.raises(LoraFileError, match="choose a folder"):
        start(FakeHost(tmp_path / "Lora"))


def test_identical_pictures_are_refused_before_any_work(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    with pytest.raises(PictureError, match="identical"):
        TrainingRun(host, Request.of(ORIGINAL, ORIGINAL.copy(), "blink", TrainConfig.create("action")))
    assert host.calls == 0
    assert files(tmp_path) == []


def test_single_pictures_and_regularisation_pictures(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    sources = [PairSource(each, each, f"p{n}", is_single=True) for n, each in enumerate(pictures())]
    prior = PairSource(*pictures(2)[:1] * 2, "prior", is_single=True, is_prior=True)
    config = TrainConfig.create("action", method="lora", **QUICK)
    run = TrainingRun(host, Request((*sources, prior), "many", config))
    list(run.events())
    (result,) = run.results
    assert not result.round_trip.is_measured
    assert "no difference" in result.verdict
    assert result.weight == 1.0
    with pytest.raises(ConfigError, match="needs pairs"):
        TrainingRun(host, Request(tuple(sources), "no", TrainConfig.create("action", **QUICK)))
    with pytest.raises(PictureError, match="only regularisation pictures"):
        TrainingRun(host, Request((prior,), "no", config))


def test_the_lowest_timestep_follows_the_largest_picture_unless_it_is_given(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    small, large = (PairSource(*(np.asarray(world.draw(world.Face(eyes=eyes)).resize((side, side)))
                                 for eyes in ("open", "closed"))) for side in (64, 128))  # fmt: skip
    for sources, lowest in (((small,), 500), ((small, large), 700)):
        config = TrainConfig.create("concept")
        assert TrainingRun(host, Request(sources, "blink", config)).config.min_timestep == lowest
        own = dataclasses.replace(config, min_timestep=10)
        assert TrainingRun(host, Request(sources, "blink", own)).config.min_timestep == 10


def test_auto_mirrors_one_pair_whose_change_goes_to_no_side(tmp_path: Path) -> None:
    host, face = FakeHost(tmp_path), world.Face(position="left")

    def source(**change: str) -> PairSource:
        return PairSource(*(np.asarray(world.draw(each)) for each in (face, dataclasses.replace(face, **change))))

    def mirror_of(*sources: PairSource, mirror: str = "auto") -> str:
        config = TrainConfig.create("concept", mirror=mirror)
        return TrainingRun(host, Request(sources, "blink", config)).config.mirror

    closed, moved = source(eyes="closed"), source(position="right")
    assert mirror_of(closed) == "on"
    assert mirror_of(moved) == "off"
    assert mirror_of(moved, mirror="on") == "on"
    assert mirror_of(closed, mirror="off") == "off"
    assert mirror_of(closed, dataclasses.replace(closed, name="b")) == "off"
    assert mirror_of(closed, dataclasses.replace(closed, name="b", is_prior=True)) == "on"
