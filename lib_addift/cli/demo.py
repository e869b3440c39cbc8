"""The command `demo`: train on the bundled tiny world and measure the LoRA on new faces."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lib_addift.cli.options import add_settings, open_host, settings
from lib_addift.cli.progress import follow


def add_parser(commands: Any) -> None:
    """Add the command."""
    demo = commands.add_parser("demo", help="train on the bundled tiny world and measure the result")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for LoRA, grid.png and report.json")
    demo.add_argument("--model", choices=("sd15", "sdxl"), default="sd15", help="the family of the small model")
    demo.add_argument("--attribute", choices=("eyes", "mouth", "style"), default="eyes", help="what to learn")
    add_settings(demo)
    demo.set_defaults(run=run_demo_command)


def run_demo_command(options: argparse.Namespace) -> int:
    """Returns 0."""
    from lib_addift.demo.run import CHECKPOINTS, TASKS, run_demo

    task = TASKS[options.attribute]
    config = settings(options)
    host = open_host(options, CHECKPOINTS[options.model], options.out, precision=config.precision)
    report = run_demo(host, task, config, options.out, follow)
    print(f"'{task.value}' {task.attribute} on 64 new faces, from prompts that do not mention {task.attribute}:")
    for weight, key in (("without LoRA", "base_rate"), ("weight 1", "target_rate"), ("weight -1", "reverse_rate")):
        print(f"  {weight:<13}{report[key]:.0%}")
    print(f"  faces in which anything else changed: {report['off_target_change']:.0%}")
    print(f"  recovery of the pair's difference: {report['recovery']:.0%}")
    print(f"See {options.out / 'grid.png'} and {options.out / 'report.json'}.")
    return 0
