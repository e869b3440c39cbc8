"""The command `pairs`: more pairs from the model that is loaded, written as a set to look at and to train."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib_addift.cli.options import add_model, open_host
from lib_addift.config.prompts import VARIED_PROMPTS
from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import load_pair, load_single
from lib_addift.diffusion.host import Host
from lib_addift.drawn_pairs.pair import BLEND, Drawing, DrawSettings
from lib_addift.drawn_pairs.target import STRENGTH, target_from_words
from lib_addift.drawn_pairs.vary import vary
from lib_addift.drawn_pairs.words import from_words
from lib_addift.errors import ConfigError
from lib_addift.sets.write import check_new_set, write_set

_DEFAULT = DrawSettings()
Draw = Callable[[argparse.Namespace, Host, DrawSettings], Iterable[Drawing]]


def add_parser(commands: Any) -> None:
    """Add the command and its three kinds."""
    parser = commands.add_parser("pairs", help="draw pairs with the model: from words, from one pair, from one picture")
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    for add in (_add_from_words, _add_vary, _add_target):
        add(kinds)


def _add_from_words(kinds: Any) -> None:
    words = kinds.add_parser("from-words", help="two prompts, each drawn from the same noise")
    words.add_argument("--original", required=True, metavar="PROMPT", help="may have alternatives: {black|red} hair")
    words.add_argument("--target", required=True, metavar="PROMPT", help="the same with the words of the change")
    words.add_argument("--count", type=int, default=16, help="pairs (default: 16)")
    words.add_argument("--size", default="512", metavar="WxH", help="px of the pictures (default: 512)")
    words.add_argument("--blend", choices=BLEND, default="auto", help="auto: only what the words change is drawn anew")
    _add_common(words, _from_words)


def _add_vary(kinds: Any) -> None:
    variations = kinds.add_parser("vary", help="the difference of one pair on other pictures")
    variations.add_argument("original", type=Path, help="the picture as it is")
    variations.add_argument("target", type=Path, help="the picture as it should become")
    variations.add_argument("--count", type=int, default=8, help="pairs beside this one (default: 8)")
    variations.add_argument(
        "--prompt",
        action="append",
        metavar="PROMPT",
        help="words to draw under; may be repeated (default: a list)",
    )
    variations.add_argument("--caption", default="", help="what both pictures show, in words")
    _add_common(variations, _vary)


def _add_target(kinds: Any) -> None:
    target = kinds.add_parser("target", help="the target of a picture, as a prompt says")
    target.add_argument("picture", type=Path, help="the original")
    target.add_argument("--prompt", required=True, help="what the target shows")
    target.add_argument("--original", default="", metavar="PROMPT", help="what the picture shows")
    target.add_argument("--strength", type=float, default=STRENGTH, help=f"0.1 to 1 (default: {STRENGTH})")
    target.add_argument("--blend", choices=BLEND, default="auto", help="auto: only what the words change is drawn anew")
    _add_common(target, _target)


def _add_common(parser: argparse.ArgumentParser, draw: Draw) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder for the set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="an SD1.5 or SDXL .safetensors file")
    parser.add_argument("--seed", type=int, default=_DEFAULT.seed, help="of the first pair (default: 1)")
    parser.add_argument("--steps", type=int, default=_DEFAULT.steps, help=f"of DDIM (default: {_DEFAULT.steps})")
    parser.add_argument(
        "--guidance", type=float, default=_DEFAULT.guidance, help=f"CFG scale (default: {_DEFAULT.guidance:g})"
    )
    parser.add_argument("--negative-prompt", default="", metavar="PROMPT", help="what no picture is to show")
    parser.add_argument("--resolution", type=int, default=512, help="px squared that given pictures are brought to")
    add_model(parser)
    parser.set_defaults(run=run_pairs, draw=draw)


def run_pairs(options: argparse.Namespace) -> int:
    """Draw, write the set and say what to do with it. Returns 0."""
    check_new_set(options.out)
    settings = _settings(options)
    lora_dir = Path("models/Lora")
    host = open_host(options, options.checkpoint, lora_dir)
    with host.exclusive():
        last = _shown(options.draw(options, host, settings))
    sheet = write_set(options.out, last.pairs)
    rejected = f"; of those drawn, {last.rejected} were left out" if last.rejected else ""
    count = len(last.pairs)
    print(f"{count} pair{'s are' if count != 1 else ' is'} in {options.out}{rejected}.")
    print(f"Look at {sheet}, and delete the pictures of pairs that are not right. Then train them:")
    print(
        f"  python -m lib_addift batch --checkpoint {_quoted(options.checkpoint)} --sets {_quoted(options.out)} "
        f"--lora-dir {lora_dir.as_posix()}"
    )
    return 0


def _settings(options: argparse.Namespace) -> DrawSettings:
    width, height = _size(getattr(options, "size", "512"))
    return DrawSettings(
        options.steps, options.guidance, width, height, options.seed, options.negative_prompt,
        getattr(options, "blend", "auto"),
    )  # fmt: skip


def _size(text: str) -> tuple[int, int]:
    """512 or 512x768, in px. Raises ConfigError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise ConfigError(f"--size {text} is no size: write it as 512 or as 512x768.")
    return int(sides[0]), int(sides[-1])


def _from_words(options: argparse.Namespace, host: Host, settings: DrawSettings) -> Iterator[Drawing]:
    return from_words(host, options.original, options.target, count=options.count, settings=settings)


def _vary(options: argparse.Namespace, host: Host, settings: DrawSettings) -> Iterator[Drawing]:
    pair = load_pair(options.original, options.target, TrainConfig(resolution=options.resolution, mask="off"))
    return vary(
        host, pair.original, pair.target, count=options.count, settings=settings,
        prompts=options.prompt or VARIED_PROMPTS, own_prompt=options.caption,
    )  # fmt: skip


def _target(options: argparse.Namespace, host: Host, settings: DrawSettings) -> Iterator[Drawing]:
    picture: np.ndarray = load_single(options.picture, TrainConfig(resolution=options.resolution)).original
    yield Drawing("drawing the target", 0, 1)
    pair = target_from_words(
        host, picture, options.prompt, original_prompt=options.original, strength=options.strength, settings=settings
    )
    yield Drawing("drawing the target", 1, 1, (pair,))


def _shown(drawings: Iterable[Drawing]) -> Drawing:
    """The last one; on a terminal, progress rewrites its own line."""
    live = sys.stdout.isatty()
    last = Drawing("", 0, 0)
    for last in drawings:
        line = f"{last.text}: {last.done}/{last.total}"
        print(f"\r{line}" if live else line, end="" if live else "\n", flush=True)
    if live:
        print()
    return last


def _quoted(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if " " in text else text
