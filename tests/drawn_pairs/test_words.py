"""Pairs from two prompts: the same seeds, the same pictures; blending; and replacement of what is no good."""

from __future__ import annotations

import numpy as np
import pytest

from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT
from lib_addift.drawn_pairs import words
from lib_addift.drawn_pairs.decode import as_drawn
from lib_addift.drawn_pairs.pair import Drawing, DrawnPair, DrawSettings
from lib_addift.drawn_pairs.words import Words, draw_words, from_words
from lib_addift.errors import ConfigError
from lib_addift.hosts.standalone import StandaloneHost
from tests.support.fake_host import FakeHost
from tests.support.pictures import changed, scene
from tests.support.prompted_host import PromptedHost

SMALL = DrawSettings(steps=3, guidance=3.0, width=128, height=64)


def last(drawings) -> Drawing:
    return list(drawings)[-1]


def test_outside_of_the_mask_the_target_is_the_original() -> None:
    pair = last(from_words(PromptedHost(), "a", "a b b b b", count=1, settings=SMALL)).pairs[0]
    assert pair.original.shape == pair.target.shape == (64, 128, 3)
    assert pair.mask is not None
    differs = (pair.original != pair.target).any(axis=2)
    assert differs[24:32, 24:32].all()
    assert not differs[pair.mask == 0].any()
    assert pair.original_prompt == pair.target_prompt == ""


def test_a_pair_is_the_same_in_every_batch_and_seeds_differ() -> None:
    host, both = PromptedHost(), [Words("x, a", "x, a b b b", seed) for seed in (4, 5)]
    together, alone = draw_words(host, both, SMALL), draw_words(host, both[1:], SMALL)
    assert np.array_equal(together[1].original, alone[0].original)
    assert np.array_equal(together[1].target, alone[0].target)
    assert not np.array_equal(together[0].original, together[1].original)
    assert alone[0].original_prompt == "x"
    assert alone[0].seed == 5


def test_without_blending_there_is_no_mask() -> None:
    settings = DrawSettings(steps=3, width=64, height=64, blend="off")
    assert last(from_words(PromptedHost(), "a", "a b b b b", count=1, settings=settings)).pairs[0].mask is None


def test_pairs_without_the_change_are_replaced_up_to_three_times_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(every: int):
        def draw(_model, some, _settings) -> list[DrawnPair]:
            pictures = [scene(64, 64, each.seed) for each in some]
            return [
                as_drawn(each, changed(each, 16, 16, 16) if not word.seed % every else each, ("", ""), word.seed)
                for each, word in zip(pictures, some, strict=True)
            ]

        return draw

    monkeypatch.setattr(words, "draw_words", drawn(2))
    drawings = list(from_words(FakeHost(), "a", "b", count=10, settings=SMALL))
    assert [pair.seed for pair in drawings[-1].pairs] == list(range(2, 22, 2))
    assert (drawings[-1].done, drawings[-1].total, drawings[-1].rejected) == (20, 20, 10)
    assert [drawing.done for drawing in drawings] == sorted({drawing.done for drawing in drawings})

    monkeypatch.setattr(words, "draw_words", drawn(5))
    end = last(from_words(FakeHost(), "a", "b", count=10, settings=SMALL))
    assert (len(end.pairs), end.done, end.rejected) == (6, 30, 24)

    monkeypatch.setattr(words, "draw_words", drawn(1000))
    with pytest.raises(ConfigError, match="no difference that can be seen in 6 pairs"):
        last(from_words(FakeHost(), "a", "b", count=2, settings=SMALL))


@pytest.mark.parametrize(
    ("original", "target", "count", "problem"),
    [
        ("a face", "a face ", 1, "both prompts are"),
        ("a {b", "c", 1, "without its }"),
        ("a", "b", 0, "count = 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_any_work(original, target, count, problem) -> None:
    host = FakeHost(fail_at=1)
    with pytest.raises(ConfigError, match=problem):
        last(from_words(host, original, target, count=count, settings=SMALL))


@pytest.mark.slow
@pytest.mark.long
def test_the_bundled_model_closes_the_eyes_and_blending_keeps_the_rest() -> None:
    """Under prompts of two attributes the words change more than the eyes: with blending only those."""
    skin = "{light skin|dark skin}"
    host = StandaloneHost(CHECKPOINT, device="cpu")
    settings = DrawSettings(steps=12, guidance=4.0, width=64, height=64, seed=1)
    with host.exclusive():
        pairs = last(from_words(host, f"open eyes, {skin}", f"closed eyes, {skin}", count=4, settings=settings)).pairs
    assert len(pairs) == 4
    for pair in pairs:
        before, after = world.detect(pair.original), world.detect(pair.target)
        assert (before.pop("eyes"), after.pop("eyes")) == ("open", "closed")
        assert before == after
