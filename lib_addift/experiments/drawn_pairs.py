"""Measures drawn pairs on the tiny world: prints the tables of docs/pairs.md.

All seeds are below 100, on which the defaults were chosen.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT
from lib_addift.drawn_pairs.pair import Drawing, DrawnPair, DrawSettings
from lib_addift.drawn_pairs.target import target_from_words
from lib_addift.drawn_pairs.vary import vary
from lib_addift.drawn_pairs.words import from_words
from lib_addift.errors import ConfigError
from lib_addift.hosts.standalone import StandaloneHost

TASKS = (
    ("eyes", "open", "closed"),
    ("mouth", "smiling", "open"),
    ("hair", "black", "blond"),
    ("skin", "light", "dark"),
)
_FACES = 4  # to vary, and to draw targets of
_DRAW = DrawSettings(steps=12, guidance=4.0, width=world.SIZE, height=world.SIZE, seed=1)
Task = tuple[str, str, str]  # an attribute, its value in the original, its value in the target


def full_prompt(name: str, value: str) -> str:
    """All seven attributes, with alternatives for those that are not learnt."""
    prompt = world.caption(world.Face())
    for each in world.ATTRIBUTES:
        phrase = world.phrase(each, value) if each == name else _any_of(each)
        prompt = prompt.replace(world.phrase(each, getattr(world.Face(), each)), phrase)
    return prompt


def bare_prompt(name: str, value: str) -> str:
    """The attribute that is learnt, and one other."""
    return f"{world.phrase(name, value)}, {_any_of('hair' if name == 'skin' else 'skin')}"


def _any_of(name: str) -> str:
    return "{" + "|".join(world.phrase(name, value) for value in world.ATTRIBUTES[name]) + "}"


def score(pairs: Sequence[DrawnPair], task: Task) -> str:
    """How many pairs have the change, and on how many of them nothing else is different."""
    name, before, after = task
    hits = alone = 0
    for pair in pairs:
        first, second = world.detect(pair.original), world.detect(pair.target)
        if first.pop(name) == before and second.pop(name) == after:
            hits += 1
            alone += all(first[other] == second.get(other) for other in first)
    return f"{len(pairs)} | {hits} | {alone}"


def words_rows(host: StandaloneHost, count: int) -> Iterator[str]:
    """A row for each task, kind of prompt and way of blending."""
    for kind, prompt in (("full", full_prompt), ("two", bare_prompt)):
        for task in TASKS:
            for blend in ("auto", "off"):
                name, before, after = task
                draw = replace(_DRAW, blend=blend)
                prompts = prompt(name, before), prompt(name, after)
                last, seconds = _timed(from_words(host, *prompts, count=count, settings=draw))
                figures = f"{score(last.pairs, task)} | {last.rejected} | {seconds:.0f}"
                yield f"| {name}, {after} | {kind} | {blend} | {figures} |"


def vary_rows(host: StandaloneHost, count: int) -> Iterator[str]:
    """A row for each task and random face."""
    for task in TASKS:
        for seed in range(1, _FACES + 1):
            face, (original, target) = _painted(task, seed)
            draw = replace(_DRAW, seed=seed)
            last, seconds = _timed(vary(host, original, target, count=count, settings=draw))
            kept = last.pairs[1:]
            differ = [_others(pair.original, original, task[0]) for pair in kept]
            mean = f"{np.mean(differ):.1f}" if kept else "-"
            yield f"| {task[0]}, {task[2]} | {face.skin}, {face.hair} | {score(kept, task)} | {mean} | {seconds:.0f} |"


def target_rows(host: StandaloneHost, _count: int) -> Iterator[str]:
    """A row for each task: the picture's and the target's full captions as prompts."""
    for task in TASKS:
        pairs = []
        for seed in range(1, _FACES + 1):
            face, (original, _) = _painted(task, seed)
            changed: dict[str, Any] = {task[0]: task[2]}
            prompts = world.caption(face), world.caption(replace(face, **changed))
            with host.exclusive():
                try:
                    drawn = target_from_words(
                        host, original, prompts[1], original_prompt=prompts[0], settings=replace(_DRAW, seed=seed)
                    )
                except ConfigError:
                    continue
            pairs.append(drawn)
        yield f"| {task[0]}, {task[2]} | {score(pairs, task)} |"


def _painted(task: Task, seed: int) -> tuple[world.Face, tuple[np.ndarray, np.ndarray]]:
    """A random face with the original's value, and the pictures of a pair of it."""
    changed: dict[str, Any] = {task[0]: task[2]}
    face = world.random_face(random.Random(seed), **{task[0]: task[1]})
    return face, (np.array(world.draw(face)), np.array(world.draw(replace(face, **changed))))


def _others(first: np.ndarray, second: np.ndarray, name: str) -> int:
    """The number of attributes but one that two pictures do not share."""
    one, two = world.detect(first), world.detect(second)
    return sum(one[each] != two[each] for each in one if each != name)


def _timed(drawings: Iterator[Drawing]) -> tuple[Drawing, float]:
    start = time.monotonic()
    *_, last = drawings
    return last, time.monotonic() - start


TABLES = {
    "from-words": ("task | prompts | blend | pairs | with the change | nothing else | left out | s", words_rows, 16),
    "vary": ("task | face | kept | with the change | nothing else | other attributes that differ | s", vary_rows, 8),
    "target": ("task | targets | with the change | nothing else", target_rows, 0),
}


def main() -> None:
    """Print the tables that are named on the command line, or all."""
    torch.set_num_threads(1)
    host = StandaloneHost(CHECKPOINT, device="cpu")
    for name in sys.argv[1:] or TABLES:
        heading, rows, count = TABLES[name]
        print(f"\n{name}\n\n| {heading} |\n|{'---|' * len(heading.split('|'))}")
        for row in rows(host, count):
            print(row, flush=True)


if __name__ == "__main__":
    main()
