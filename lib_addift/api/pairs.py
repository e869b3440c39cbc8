"""The routes under /addift/v1/pairs: pairs that the loaded model draws, to look at and then to send to /train."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from PIL import Image

from lib_addift.api.models import DrawBody, DrawnPairAnswer, DrawnPairsAnswer, TargetBody, VaryBody, WordsBody
from lib_addift.api.pictures import check_pixels, decoding, encode_png, read_picture
from lib_addift.config.prompts import VARIED_PROMPTS
from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import load_pair, load_single
from lib_addift.diffusion.host import Host
from lib_addift.drawn_pairs.pair import Drawing, DrawnPair, DrawSettings
from lib_addift.drawn_pairs.target import target_from_words
from lib_addift.drawn_pairs.vary import vary
from lib_addift.drawn_pairs.words import from_words
from lib_addift.errors import ConfigError

MOST_PAIRS = 64  # in one answer: all its pictures are in memory at once


class PairsApi:
    """The endpoints. They are plain functions, which the server runs in threads: drawing takes long."""

    def __init__(self, host: Host, picture_dirs: Sequence[FilePath]) -> None:
        self._host, self._folders = host, tuple(picture_dirs)

    def table(self) -> list[tuple[str, str, Callable[..., Any], str, tuple[int, ...]]]:
        """Method, path, endpoint, summary and error codes of every route."""
        codes = (409, 413, 422)
        return [
            ("POST", "/pairs/from-words", self.from_words, "Draw pairs from two prompts", codes),
            ("POST", "/pairs/vary", self.vary, "Draw the difference of one pair on other pictures", codes),
            ("POST", "/pairs/target", self.target, "Draw the target of a picture from a prompt", codes),
        ]

    def from_words(self, body: WordsBody) -> DrawnPairsAnswer:
        """Both prompts from one noise; waits until the model is free, and answers when all is drawn."""
        _check_count(body.count)
        settings = _settings(body, width=body.width, height=body.height, blend=body.blend)
        words = body.original_prompt, body.target_prompt
        return self._drawn(lambda: from_words(self._host, *words, count=body.count, settings=settings))

    def vary(self, body: VaryBody) -> DrawnPairsAnswer:
        """The first pair of the answer is the one that was sent, as it is trained on."""
        _check_count(body.count)
        settings, config = _settings(body), TrainConfig(resolution=body.resolution, mask="off")
        original = read_picture(body.original, body.original_path, "original", self._folders)
        target = read_picture(body.target, body.target_path, "target", self._folders)
        check_pixels([("original", original), ("target", target)])
        with decoding:
            pair = load_pair(original, target, config)
        return self._drawn(
            lambda: vary(
                self._host, pair.original, pair.target, count=body.count, settings=settings,
                prompts=body.prompts or VARIED_PROMPTS, own_prompt=body.caption,
            )
        )  # fmt: skip

    def target(self, body: TargetBody) -> DrawnPairsAnswer:
        """One pair: the picture that was sent, as it is trained on, and its target."""
        settings, config = _settings(body, blend=body.blend), TrainConfig(resolution=body.resolution)
        picture = read_picture(body.picture, body.picture_path, "picture", self._folders)
        check_pixels([("picture", picture)])
        with decoding:
            original: np.ndarray = load_single(picture, config).original

        def drawn() -> Iterable[Drawing]:
            pair = target_from_words(
                self._host, original, body.prompt, original_prompt=body.original_prompt, strength=body.strength,
                settings=settings,
            )  # fmt: skip
            yield Drawing("", 1, 1, (pair,))

        return self._drawn(drawn)

    def _drawn(self, draw: Callable[[], Iterable[Drawing]]) -> DrawnPairsAnswer:
        last = Drawing("", 0, 0)
        with self._host.exclusive():
            for last in draw():
                self._host.report(last.text, last.done, last.total)
        return DrawnPairsAnswer(pairs=[_answer(pair) for pair in last.pairs], rejected=last.rejected)


def _settings(body: DrawBody, **more: Any) -> DrawSettings:
    return DrawSettings(
        steps=body.steps, guidance=body.guidance, seed=body.seed, negative_prompt=body.negative_prompt, **more
    )


def _check_count(count: int) -> None:
    if not 1 <= count <= MOST_PAIRS:
        raise ConfigError(f"count = {count} is out of bounds: ask for 1 to {MOST_PAIRS} pairs at once.")


def _answer(pair: DrawnPair) -> DrawnPairAnswer:
    return DrawnPairAnswer(
        original=encode_png(Image.fromarray(pair.original)),
        target=encode_png(Image.fromarray(pair.target)),
        original_prompt=pair.original_prompt,
        target_prompt=pair.target_prompt,
        seed=pair.seed,
        size=pair.size,
        concentration=pair.concentration,
    )
