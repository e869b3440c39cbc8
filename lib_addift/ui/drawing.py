"""Pairs that the loaded model draws for the form, in the background. No gradio."""

from __future__ import annotations

import functools
import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from lib_addift.config.prompts import phrases
from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import load_pair
from lib_addift.diffusion.host import Host
from lib_addift.drawn_pairs.pair import Drawing, DrawnPair, DrawSettings, check_count
from lib_addift.drawn_pairs.vary import vary
from lib_addift.drawn_pairs.words import Words, from_words
from lib_addift.errors import ConfigError, PictureError
from lib_addift.sets.names import safe_name
from lib_addift.ui.background import BackgroundTask, Work
from lib_addift.ui.form import Draft, config_of
from lib_addift.ui.pairs import MOST_PAIRS, FormPair

_WAITING = "waiting until the model is free"
_LONGEST_NAME = 40  # characters of a name made of words


class PairDrawing:
    """Draws pairs into the form, which shows them as they come; `task` says how it goes."""

    def __init__(self, host: Host, draft: Draft) -> None:
        self._host, self._draft = host, draft
        self.task = BackgroundTask("addift-pairs", "pairs are being drawn already: wait, or press Stop.")
        self.done = self.total = 0
        self.seconds_left: float | None = None
        self._is_stopped = False

    def start_words(self, values: Mapping[str, Any]) -> threading.Thread:
        """Draw pairs from two prompts. Raises ConfigError or JobError."""
        config, count = config_of(values), _count(values["words_count"])
        original, target = (str(values[name] or "").strip() for name in ("words_original", "words_target"))
        if not original or not target:
            raise ConfigError("type both prompts: one for the pictures without the change, one for those with it.")
        first = Words.of(original, target, 0)
        if phrases(first.original) == phrases(first.target):
            raise ConfigError("both prompts say the same: change a word of one.")
        draw = functools.partial(from_words, original=original, target=target, count=count, settings=_settings(config))
        return self._start(draw, "words", 0)

    def start_vary(self, values: Mapping[str, Any]) -> threading.Thread:
        """Draw the difference of the pair on show on other pictures. Raises an AddiftError."""
        config, count = config_of(values), _count(values["vary_count"])
        pair = self._draft.pairs.shown
        if pair.missing:
            raise PictureError("there is no pair to vary: put both pictures into 'My pictures' first.")
        caption = str(values["vary_caption"] or "").strip()
        source = pair.source("", masks_itself=False)
        fitted = load_pair(source.original, source.target, TrainConfig(resolution=config.resolution, mask="off"))
        draw = functools.partial(
            vary, original=fitted.original, target=fitted.target, count=count, settings=_settings(config),
            own_prompt=caption or pair.caption,
        )  # fmt: skip
        return self._start(draw, "variation", 1)

    def stop(self) -> None:
        """End after what is being drawn now; the pairs so far stay."""
        self._is_stopped = True

    def _start(self, draw: Any, kind: str, own: int) -> threading.Thread:
        def prepare() -> Work:
            self.done, self.total, self.seconds_left, self._is_stopped = 0, 0, None, False
            return functools.partial(self._draw, draw, kind, own)

        return self.task.start(prepare, _WAITING)

    def _draw(self, draw: Any, kind: str, own: int) -> None:
        """Run a drawing; its first `own` pairs are the person's."""
        last, shown = Drawing("", 0, 0), dict[DrawnPair, FormPair]()
        with self._host.exclusive(), closing(draw(self._host)) as drawings:
            begun = time.monotonic()
            for last in _until(drawings, lambda: self._is_stopped):
                self._show(last, shown, last.pairs[own:], kind)
                if last.done:
                    self.seconds_left = (time.monotonic() - begun) / last.done * (last.total - last.done)
                self._host.report(f"Train Difference LoRA: {last.text}", last.done, last.total)
        self.task.set_text(_ended(len(shown), last))

    def _show(
        self, drawing: Drawing, shown: dict[DrawnPair, FormPair], pairs: tuple[DrawnPair, ...], kind: str
    ) -> None:
        """Bring the form's pairs up to date: those that are good so far; ticks that a person has changed stay."""
        with self._draft.lock:
            gone = [pair for pair in shown if pair not in pairs]
            new = {
                pair: FormPair.of(pair.source(f"{kind} {pair.seed}"), is_drawn=True)
                for pair in pairs
                if pair not in shown
            }
            if gone:
                self._draft.pairs.remove(shown.pop(pair) for pair in gone)
            before, is_empty = self._draft.pairs.shown, self._draft.pairs.shown.is_empty
            if new:
                self._draft.pairs.add(new.values())
                shown |= new
                if not is_empty:
                    self._draft.pairs.show(before)
        self.done, self.total = drawing.done, drawing.total
        self.task.set_text(drawing.text)


def _until(drawings: Iterator[Drawing], is_stopped: Any) -> Iterator[Drawing]:
    for drawing in drawings:
        yield drawing
        if is_stopped():
            return


def _ended(count: int, last: Drawing) -> str:
    left_out = f"; {last.rejected} of those drawn were not good enough" if last.rejected else ""
    if not count:
        return f"no pair kept the change{left_out}. Draw from words, or use a pair that shows it more strongly"
    return f"{count} pair{'s' * (count > 1)} drawn{left_out}. Untick those that are not right, then Train"


def _settings(config: TrainConfig) -> DrawSettings:
    """The form's seed, resolution and guidance; the steps are those of drawn pairs."""
    return DrawSettings.of(config, steps=DrawSettings.steps)


def _count(value: Any) -> int:
    if value is None or value != int(value):
        raise ConfigError("how many pairs must be a whole number.")
    check_count(int(value))
    if value > MOST_PAIRS:
        raise ConfigError(f"{int(value)} pairs are too many for the form: draw at most {MOST_PAIRS}.")
    return int(value)


def name_from_words(original: str, target: str) -> str:
    """A name for the LoRA: where the target first says something new, to the end of the phrase; '' if nowhere."""
    try:
        words = Words.of(original, target, 0)
    except ConfigError:
        return ""
    known, said = set(_words(words.original)), [_words(phrase) for phrase in phrases(words.original)]
    for phrase in map(_words, phrases(words.target)):
        if phrase and phrase not in said:  # its words may all be known, from other phrases
            new = list(itertools.dropwhile(lambda word: word in known, phrase)) or phrase
            return safe_name("_".join(new)[:_LONGEST_NAME])
    return ""


def _words(text: str) -> list[str]:
    return re.findall(r"[^\s,.;:()!?]+", text.lower())
