"""The command `bench`: speed and memory beside the rival's loop."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from lib_addift.errors import AddiftError, ConfigError
from lib_addift.families import SD15, SDXL, Family
from lib_addift.files import replace_files

_SIZES = {"tiny": None, "full": SD15, "sdxl": SDXL}
_GIGABYTES = {SD15: "2.1", SDXL: "6.9"}  # of a full-size checkpoint in fp16


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser("bench", help="time training beside the rival's loop")
    parser.add_argument("--size", choices=tuple(_SIZES), default="tiny", help="bundled, or SD1.5's or SDXL's size")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "fp16", "bf16"))
    parser.add_argument("--pixels", type=int, default=0, help="of the pictures (default: 64, 512 or 1024, by size)")
    parser.add_argument("--steps", type=int, default=30, help="of each run (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs (default: 3)")
    parser.add_argument("--no-proof", action="store_true", help="end ours after its last step, without the evaluation")
    parser.add_argument("--sets", default="2,4,8", metavar="A,B", help="how many LoRAs at once ('' = do not measure)")
    parser.add_argument("--scaling", action="store_true", help="also 30 to 3000 steps, and 1 to 100 pairs")
    parser.add_argument("--out", type=Path, default=Path("bench_out"), help="for bench.json, bench.md and the model")
    parser.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> int:
    """Measure, print the table, and write it. Returns 0."""
    if importlib.util.find_spec("psutil") is None:
        raise AddiftError("the bench measures memory with psutil: run 'pip install psutil'.")
    counts = _counts(options)
    from lib_addift.data.pairs import PairSource
    from lib_addift.demo import world
    from lib_addift.demo.run import CHECKPOINT, TASKS
    from lib_addift.experiments.bench.report import figures, heading, joint_training_table, scaling_table, speed_table
    from lib_addift.experiments.bench.roofline import Device
    from lib_addift.experiments.bench.run import BenchPlan, measure_joint_training, measure_memory, measure_speed
    from lib_addift.experiments.bench.scaling import all_sizes, measure_scaling
    from lib_addift.hosts.standalone import StandaloneHost

    options.out.mkdir(parents=True, exist_ok=True)
    family = _SIZES[options.size]
    pixels = options.pixels or (family.picture_side if family else world.SIZE)
    checkpoint = _full_size(options.out, family) if family else CHECKPOINT
    original, target = (world.draw(face).resize((pixels, pixels)) for face in TASKS["eyes"].faces(1))
    pair = PairSource(original, target)
    with tempfile.TemporaryDirectory() as folder:
        open_host = functools.partial(
            StandaloneHost, checkpoint, lora_dir=Path(folder), device=options.device, precision=options.precision
        )
        host = open_host()
        device = Device.measure(host.device, next(host.unet.parameters()).dtype)
        found = {}
        plan = BenchPlan(options.steps, pixels, options.rounds, with_proof=not options.no_proof)
        for each in measure_speed(host, pair, plan):
            found[each.contender.name] = each
            print(f"{each.contender.name}: {each.runs[-1].last_step:.3g} s for {options.steps} steps", flush=True)
        together = measure_joint_training(host, pair, counts, steps=options.steps, pixels=pixels)
        measured = list(found.values())
        measure_memory(open_host, measured, pair, plan)
        scaled = list(measure_scaling(host, pixels=pixels, sizes=all_sizes() if options.scaling else []))
        head = heading(host, options.size, plan, device)
    more = [*([joint_training_table(together)] if together else []), *([scaling_table(scaled)] if scaled else [])]
    page = "\n\n".join([head, speed_table(measured, device, options.steps), *more])
    print(f"\n{page}")
    content = {"where": head} | figures(measured, together, scaled, device, options.steps)
    texts = {"bench.json": json.dumps(content, indent=1), "bench.md": page}
    replace_files({options.out / name: f"{text}\n".encode() for name, text in texts.items()}, durable=False)
    return 0


def _counts(options: argparse.Namespace) -> list[int]:
    """The numbers of LoRAs. Raises ConfigError for what cannot be measured."""
    for flag, least in (("steps", 2), ("rounds", 1)):
        value = getattr(options, flag)
        if value < least:
            raise ConfigError(f"--{flag} {value} is too few: give at least {least}.")
    if options.pixels % 64 or options.pixels < 0:
        raise ConfigError(f"--pixels {options.pixels} does not fit the model: give a multiple of 64.")
    numbers = [text.strip() for text in options.sets.split(",") if text.strip()]
    wrong = [text for text in numbers if not text.isdecimal() or int(text) < 1]
    if wrong:
        raise ConfigError(f"--sets {wrong[0]} is no number of LoRAs: give whole numbers from 1 on, such as 2,4,8.")
    return [int(text) for text in numbers]


def _full_size(folder: Path, family: Family) -> Path:
    """The checkpoint of random weights, written by the first call."""
    from lib_addift.experiments.bench.full_size import write_full_size

    path = folder / ("full_size_random.safetensors" if family is SD15 else "full_size_random_xl.safetensors")
    if not path.exists():
        print(f"writing {path} ({_GIGABYTES[family]} GB) ...", flush=True)
        write_full_size(path, family=family)
    return path
