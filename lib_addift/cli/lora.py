"""The command `lora`: work on finished LoRA files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_addift.cli.options import add_settings, open_host, settings
from lib_addift.config.settings import LAYER_KINDS
from lib_addift.errors import ConfigError
from lib_addift.lora import tools as lora_tools
from lib_addift.lora.arithmetic import RankLimit, Report
from lib_addift.lora.blocks import NO_WEIGHTS, BlockWeights
from lib_addift.lora.extract import MODEL_PARTS, extract
from lib_addift.lora.inspect import show
from lib_addift.lora.tools import Output, SavedLora, Summand

_REPORT_EVERY = 2.0  # seconds
_BLOCKS_HELP = (
    "such as 'OUT=1, MID=0.5', or the 17 or 26 numbers of LoRA Block Weight, of SDXL 12 or 20; a block that is not "
    "named has 1"
)
Parser = argparse.ArgumentParser


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("lora", help="subtract, merge, average, resize, extract, calibrate or show LoRA files")
    tools = parser.add_subparsers(required=True, metavar="OPERATION")

    subtract = _add(tools, "subtract", "one LoRA minus another", _subtract)
    subtract.add_argument("file", type=Path, help="the LoRA from which something is taken")
    subtract.add_argument("taken", type=Path, help="the LoRA that is taken from it")
    subtract.add_argument("--weight", type=float, default=1.0, help="at which the second one is taken (default: 1)")
    subtract.add_argument("--blocks", default="", metavar="WEIGHTS", help=f"for the second one, {_BLOCKS_HELP}")

    merge = _add(tools, "merge", "the weighted sum of LoRAs, or one LoRA at other weights", _merge)
    merge.add_argument("files", type=Path, nargs="+", metavar="file")
    merge.add_argument(
        "--weights", type=float, nargs="+", default=[], metavar="W", help="one for each file (default: 1)"
    )
    merge.add_argument(
        "--blocks", action="append", default=[], metavar="WEIGHTS",
        help=f"{_BLOCKS_HELP}; given once it is for all files, else once for each file",
    )  # fmt: skip

    average = _add(tools, "average", "the mean of LoRAs", _average)
    average.add_argument("files", type=Path, nargs="+", metavar="file")

    resize = _add(tools, "resize", "a LoRA in a lower rank", _resize)
    resize.add_argument("file", type=Path)
    _add_extract(tools)

    calibrate = _add(tools, "calibrate", "scale a LoRA so that weight 1 is the difference of two pictures", _calibrate)
    calibrate.add_argument("file", type=Path)
    calibrate.add_argument("--checkpoint", type=Path, required=True, help="an SD1.5 or SDXL .safetensors file")
    calibrate.add_argument("--original", type=Path, required=True, help="the picture as it is")
    calibrate.add_argument("--target", type=Path, required=True, help="the picture as the LoRA should make it")
    add_settings(calibrate)

    shown = tools.add_parser("show", help="what a file says of itself, and how strongly it acts in each block")
    shown.add_argument("file", type=Path)
    shown.add_argument("--layers", action="store_true", help="each layer too")
    shown.set_defaults(run=_show)


def _add(tools: Any, name: str, text: str, run: Callable[[argparse.Namespace], int], *, rank: int = 0) -> Parser:
    """A tool that writes a new file, by default of this rank."""
    parser: Parser = tools.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new LoRA, NAME.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace a LoRA of this name")
    if name != "calibrate":  # it has the setting save_precision
        parser.add_argument("--precision", choices=("fp16", "bf16", "fp32"), default="fp16", help="of the new file")
        parser.add_argument(
            "--rank", type=int, default=rank, help=f"at most, in each layer; 0 is no limit (default: {rank})"
        )
        parser.add_argument(
            "--energy",
            type=float,
            default=1.0,
            metavar="SHARE",
            help="to keep of each layer, such as 0.95 (default: 1)",
        )
    parser.set_defaults(run=run)
    return parser


def _add_extract(tools: Any) -> None:
    parser = _add(tools, "extract", "the difference of two checkpoints as a LoRA", _extract, rank=32)
    parser.add_argument("tuned", type=Path, help="the checkpoint that has learnt something, .safetensors")
    parser.add_argument("base", type=Path, help="the checkpoint from which it was made, .safetensors")
    parser.add_argument(
        "--layers", nargs="+", choices=LAYER_KINDS, default=LAYER_KINDS, help="kinds of layers (default: all)"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=MODEL_PARTS, default=MODEL_PARTS[:-1],
        help="parts of the model; TE is the text encoder (default: IN MID OUT)",
    )  # fmt: skip


def _subtract(options: argparse.Namespace) -> int:
    taken = Summand(options.taken, options.weight, BlockWeights.parse(options.blocks))
    return _tell(lora_tools.subtract(Summand(options.file), taken, _output(options), _size(options), _progress()))


def _merge(options: argparse.Namespace) -> int:
    count = len(options.files)
    weights = options.weights or [1.0] * count
    if len(weights) != count:
        raise ConfigError(f"--weights has {len(weights)} numbers for {count} files: give one for each file.")
    if len(options.blocks) not in (0, 1, count):
        raise ConfigError(
            f"--blocks is given {len(options.blocks)} times for {count} files: give it once, or for each."
        )
    blocks = [BlockWeights.parse(text) for text in options.blocks] or [NO_WEIGHTS]
    blocks = blocks * count if len(blocks) == 1 else blocks
    parts = [Summand(*each) for each in zip(options.files, weights, blocks, strict=True)]
    return _tell(lora_tools.merge(parts, _output(options), _size(options), _progress()))


def _average(options: argparse.Namespace) -> int:
    return _tell(lora_tools.average(options.files, _output(options), _size(options), _progress()))


def _resize(options: argparse.Namespace) -> int:
    return _tell(lora_tools.resize_file(options.file, _output(options), _size(options), _progress()))


def _extract(options: argparse.Namespace) -> int:
    from lib_addift.hosts.checkpoint import open_weights

    output, size = _output(options), _size(options)
    with open_weights(options.tuned) as tuned, open_weights(options.base) as base:
        return _tell(
            extract(tuned, base, output, layers=options.layers, parts=options.parts, limit=size, report=_progress())
        )


def _calibrate(options: argparse.Namespace) -> int:
    config = settings(options)
    from lib_addift.data.pairs import load_pair
    from lib_addift.evaluation.calibrate import calibrate

    output = Output(options.out, config.save_precision, options.overwrite)
    pair = load_pair(options.original, options.target, config)
    host = open_host(options, options.checkpoint, options.out.parent, precision=config.precision)
    made = calibrate(host, options.file, pair, output, config)
    print(f"{made.verdict}\nSaved {made.path}. Use it as {made.tag}.")
    return 0


def _show(options: argparse.Namespace) -> int:
    print(show(options.file, each_layer=options.layers))
    return 0


def _output(options: argparse.Namespace) -> Output:
    return Output(options.out, options.precision, options.overwrite)


def _size(options: argparse.Namespace) -> RankLimit:
    return RankLimit(options.rank, options.energy)


def _tell(made: SavedLora) -> int:
    print(f"{made.facts}.\nSaved {made.path}. Use it as {made.tag}.")
    return 0


def _progress() -> Report:
    """Says now and then how far a long work has come; nothing of a short one."""
    told = time.monotonic()

    def report(text: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _REPORT_EVERY and done < total:
            told = time.monotonic()
            print(f"{text} {done} of {total}", file=sys.stderr, flush=True)

    return report
