"""The pictures to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_addift.data.pairs import PairSource
from lib_addift.experiments.lab import pairs
from lib_addift.experiments.lab.bench import Bench
from lib_addift.experiments.lab.faces import FACES
from tests.support.fake_host import FakeHost
from tests.support.lab import EACH_TASK, FACES_TASKS, SMALL

EYES = FACES_TASKS["eyes"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(FACES, FakeHost(tmp_path), SMALL, tmp_path)


def pixels(source: PairSource) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(source.original, Image.Image)
    assert isinstance(source.target, Image.Image)
    return np.asarray(source.original, dtype=float), np.asarray(source.target, dtype=float)


def test_painted_pairs_show_the_change_and_the_first_is_the_same_in_every_set(bench: Bench) -> None:
    four = pairs.painted(4)(bench, EYES, 1)
    assert len(four) == 4
    for source in four:
        original, target = (FACES.detect(picture) for picture in pixels(source))
        assert (original["eyes"], target["eyes"]) == ("open", "closed")
        assert original == {**target, "eyes": "open"}
    first = pairs.painted()(bench, EYES, 1)[0]
    assert (pixels(first)[0] == pixels(four[0])[0]).all()
    assert (pixels(pairs.painted()(bench, EYES, 2)[0])[0] != pixels(first)[0]).any()


def test_drawn_pairs_come_from_two_captions_and_one_noise(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    noises: list[int] = []
    draw = Bench.draw

    def listening(self: Bench, prompts: list[str], seed: int) -> np.ndarray:
        said.append(prompts)
        noises.append(seed)
        return draw(self, prompts, seed)

    monkeypatch.setattr(Bench, "draw", listening)
    sources = pairs.drawn(3, captioned=True)(bench, EYES, 5)
    originals, targets = said
    assert [prompt.replace("open eyes", "closed eyes") for prompt in originals] == targets
    assert noises[0] == noises[1]
    assert noises[0] not in range(1000), "not the noise of a measured picture"
    for source, subject in zip(sources, EYES.training_subjects(5, 3), strict=True):
        assert source.original_prompt == source.target_prompt == EYES.prompt(subject)
    assert pairs.drawn()(bench, EYES, 5)[0].original_prompt == ""


def test_the_products_pairs_are_trained_under_captions_without_the_change(bench: Bench) -> None:
    for make, count in ((pairs.from_words(3, blend="off"), 3), (pairs.varied(2), 3)):
        sources = make(bench, EYES, 5)
        assert 1 <= len(sources) <= count
        assert all(source.original_prompt == source.target_prompt for source in sources)
        assert not any("eyes" in source.original_prompt for source in sources)
        again = make(bench, EYES, 5)
        assert (pixels(again[-1])[1] == pixels(sources[-1])[1]).all()
        assert all("mouth" in source.original_prompt for source in sources[1:])
    first = pixels(pairs.varied(2)(bench, EYES, 5)[0])
    assert (first[0] == pixels(pairs.painted()(bench, EYES, 5)[0])[0]).all()


def test_inpainted_pairs_differ_in_the_area_only(bench: Bench) -> None:
    area = EYES.area(EYES.training_subjects(5, 1)[0])
    whole, inpainted = (pixels(pairs.drawn(inpainted=inside)(bench, EYES, 5)[0]) for inside in (False, True))
    assert (whole[0] == inpainted[0]).all()
    assert (whole[0] != whole[1])[~area].any(), "this would show nothing"
    assert (inpainted[0] == inpainted[1])[~area].all()
    assert (whole[1] == inpainted[1])[area].all()


@EACH_TASK
def test_damage_is_small_and_leaves_the_task_readable(bench: Bench, task) -> None:  # type: ignore[no-untyped-def]
    original, target = pixels(pairs.painted()(bench, task, 1)[0])
    jpeg, moved, warm = (
        pixels(pairs.damaged(damage)(bench, task, 1)[0]) for damage in (pairs.as_jpeg, pairs.shifted, pairs.with_cast)
    )
    assert 0 < np.abs(jpeg[0] - original).mean() < 12
    assert 0 < np.abs(jpeg[1] - target).mean() < 12
    for damaged in (moved, warm):
        assert (damaged[0] == original).all()
    assert any(
        (np.roll(target, shift, axis)[2:-2, 2:-2] == moved[1][2:-2, 2:-2]).all() for shift in (1, -1) for axis in (0, 1)
    )
    assert (warm[1] - target).mean(axis=(0, 1))[0] > 1
    assert (warm[1] - target).mean(axis=(0, 1))[2] < -1
    for damaged in (jpeg, moved, warm):
        assert task.is_hit(FACES.detect(damaged[1]))
