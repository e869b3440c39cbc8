"""The command line: train, batch, pairs, demo, lab, bench, ui, inspect, lora, settings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lib_addift.cli import batch, bench, demo, lab, lora, pairs, train, ui
from lib_addift.config.text import settings_table
from lib_addift.errors import OUT_OF_MEMORY, AddiftError, is_out_of_memory
from lib_addift.lora.file import describe
from lib_addift.training.methods import method_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed with a sentence, 2 wrong usage, 130 stopped.

    141: who reads the output has closed it, as `| head` does.
    """
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 141
    except AddiftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; nothing was saved.", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {OUT_OF_MEMORY}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib_addift", description="Train Difference LoRA for SD1.5 and SDXL (ADDifT)."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (train, batch, pairs, demo, lab, bench, ui):
        module.add_parser(commands)
    inspect = commands.add_parser("inspect", help="print what a LoRA file says of itself")
    inspect.add_argument("file", type=Path)
    inspect.set_defaults(run=_inspect)
    lora.add_parser(commands)
    settings = commands.add_parser("settings", help="print every setting as a Markdown table")
    settings.set_defaults(run=_print_settings)
    return parser


def _inspect(options: argparse.Namespace) -> int:
    print(describe(options.file))
    return 0


def _print_settings(_options: argparse.Namespace) -> int:
    print(settings_table(method_settings()), end="")
    return 0
