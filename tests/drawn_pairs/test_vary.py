"""Variations of one pair."""

from __future__ import annotations

import numpy as np
import pytest

from lib_addift.drawn_pairs import vary as module
from lib_addift.drawn_pairs.decode import as_drawn
from lib_addift.drawn_pairs.pair import Drawing, DrawSettings
from lib_addift.drawn_pairs.vary import STRENGTHS, Variation, draw_variations, kept_difference, planned, vary
from lib_addift.errors import ConfigError
from tests.support.fake_host import FakeHost
from tests.support.pictures import changed, scene

SETTINGS = DrawSettings(steps=4, guidance=2.0, seed=3)
ORIGINAL = scene(128, 128, 1)
TARGET = changed(ORIGINAL, 32, 32, 32)


def last(drawings) -> Drawing:
    return list(drawings)[-1]


def test_both_pictures_get_the_same_noise_and_words_in_every_batch() -> None:
    host = FakeHost()
    latents = host.encode_images(np.stack([ORIGINAL, ORIGINAL]))
    both = [Variation(5, 0.75, "a man"), Variation(6, 0.75, "at night")]
    together = draw_variations(host, latents, both, SETTINGS)
    for pair in together:
        assert np.array_equal(pair.original, pair.target), "one picture twice has no difference"
    alone = draw_variations(host, latents, both[1:], SETTINGS)[0]
    assert np.abs(alone.original.astype(int) - together[1].original).max() <= 1
    assert (alone.original_prompt, alone.target_prompt, alone.seed) == ("at night", "at night", 6)


def test_prompts_and_strengths_take_turns() -> None:
    plan = planned(12, 3, ["a", "{b|c}", ""], "a face")
    assert len(plan) == 12
    assert [each.strength for each in plan[:4]] == [*STRENGTHS, STRENGTHS[0]]
    assert [each.seed for each in plan] == list(range(3, 15))
    assert sum(each.prompt == "a face, a" for each in plan) == 4
    assert sum(each.prompt == "a face" for each in plan) == 4
    assert plan == planned(12, 3, ["a", "{b|c}", ""], "a face")
    assert len({(each.strength, each.prompt) for each in plan}) > 6, "not each prompt at one strength"


def test_a_difference_is_kept_by_its_size_and_its_place() -> None:
    first = as_drawn(ORIGINAL, TARGET, ("", ""), 0)
    other = scene(128, 128, 2)
    assert kept_difference(first, first) == 1
    assert kept_difference(first, as_drawn(other, changed(other, 32, 32, 32), ("", ""), 1)) > 0.7
    assert kept_difference(first, as_drawn(other, changed(other, 96, 96, 32), ("", ""), 1)) < 0.2, "elsewhere"
    assert kept_difference(first, as_drawn(other, other, ("", ""), 1)) == 0
    faint = other.copy()
    faint[32:64, 32:64] = faint[32:64, 32:64] // 2 + 64
    assert kept_difference(first, as_drawn(other, faint, ("", ""), 1)) < 0.6
    assert kept_difference(first, as_drawn(other, scene(128, 128, 3), ("", ""), 1)) < 0.4, "everywhere"


def test_the_result_is_the_pair_and_then_the_best_the_most_different_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(_model, _latents, some, _settings):
        pictures = [scene(128, 128, each.seed) for each in some]
        return [
            as_drawn(each, changed(each, 32, 32, 32) if word.seed % 3 else each, (word.prompt,) * 2, word.seed)
            for each, word in zip(pictures, some, strict=True)
        ]

    monkeypatch.setattr(module, "draw_variations", draw)
    drawings = list(vary(FakeHost(), ORIGINAL, TARGET, count=3, settings=SETTINGS, own_prompt="a face"))
    end = drawings[-1]
    assert len(end.pairs) == 4
    assert end.pairs[0].original is ORIGINAL
    assert end.pairs[0].original_prompt == "a face"
    assert all(pair.seed % 3 for pair in end.pairs[1:])
    assert (end.done, end.total, end.rejected) == (12, 12, 9)
    assert drawings[0].pairs == (end.pairs[0],)


def test_what_cannot_be_drawn_is_refused_before_any_work() -> None:
    for options in ({"count": 0}, {"count": 1, "prompts": ["{a"]}, {"count": 1, "own_prompt": "a}"}):
        with pytest.raises(ConfigError):
            last(vary(FakeHost(fail_at=1), ORIGINAL, TARGET, settings=SETTINGS, **options))
