"""The command `train`: a LoRA of the difference of two pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lib_addift.cli.options import add_settings, open_host, settings
from lib_addift.cli.progress import follow
from lib_addift.files import sweep_temporary
from lib_addift.training.events import Request
from lib_addift.training.search import new_run


def add_parser(commands: Any) -> None:
    """Add the command."""
    train = commands.add_parser("train", help="learn the difference of two pictures")
    train.add_argument("--checkpoint", type=Path, required=True, help="an SD1.5 or SDXL .safetensors file")
    train.add_argument("--original", type=Path, required=True, help="the picture as it is")
    train.add_argument("--target", type=Path, required=True, help="the picture as it should become")
    train.add_argument("--name", required=True, help="of the LoRA, as in <lora:NAME:1>")
    train.add_argument("--lora-dir", type=Path, required=True, help="where the LoRA goes, such as models/Lora")
    train.add_argument("--overwrite", action="store_true", help="replace a LoRA of this name")
    add_settings(train)
    train.set_defaults(run=run_train)


def run_train(options: argparse.Namespace) -> int:
    """Returns 0, or 130 when it was stopped and what was learnt so far is kept."""
    config = settings(options)
    host = open_host(options, options.checkpoint, options.lora_dir, precision=config.precision)
    sweep_temporary(options.lora_dir)
    run = new_run(host, Request.of(options.original, options.target, options.name, config, overwrite=options.overwrite))
    for finding in run.pair_report.findings:
        print(f"{finding.level}: {finding.text}")
    result = follow(run)
    new = result.new_pictures
    if new.count:
        print(f"{new.count} new pictures took {new.seconds:.1f} s; the training steps {result.train_seconds:.1f} s.")
    print(f"{result.verdict}\nSaved {result.path}. Use it as <lora:{result.path.stem}:1>.")
    return 0 if result.path.stem == options.name else 130
