"""The command line: train, batch, demo, lab, bench, ui, inspect, lora, settings."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lib_addift.cli import batch as cli_batch
from lib_addift.cli import bench as cli_bench
from lib_addift.cli import lab as cli_lab
from lib_addift.cli import lora as cli_lora
from lib_addift.config.presets import DEFAULT_PRESET, PRESETS
from lib_addift.config.settings import TrainConfig, from_mapping
from lib_addift.config.text import parse_value, read_toml, settings_table
from lib_addift.errors import OUT_OF_MEMORY, AddiftError, ConfigError, HostError
from lib_addift.lora.file import describe
from lib_addift.training.events import Event, Request, Result, ResumeState, Snapshot
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed with a sentence, 2 wrong usage, 130 stopped."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
        return code
    except AddiftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (torch.cuda.OutOfMemoryError, MemoryError):
        print(f"error: {OUT_OF_MEMORY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; nothing was saved.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib_addift", description="Train Difference LoRA for SD1.5 (ADDifT)."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="learn the difference of two pictures")
    train.add_argument("--checkpoint", type=Path, required=True, help="an SD1.5 .safetensors file")
    train.add_argument("--original", type=Path, required=True, help="the picture as it is")
    train.add_argument("--target", type=Path, required=True, help="the picture as it should become")
    train.add_argument("--name", required=True, help="of the LoRA, as in <lora:NAME:1>")
    train.add_argument("--lora-dir", type=Path, required=True, help="where the LoRA goes, such as models/Lora")
    train.add_argument("--overwrite", action="store_true", help="replace a LoRA of this name")
    _add_settings(train)
    train.set_defaults(run=_train)

    batch = cli_batch.add_parser(commands, _add_settings)
    batch.set_defaults(run=_batch)

    demo = commands.add_parser("demo", help="train on the bundled tiny world and measure the result")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for LoRA, grid.png and report.json")
    demo.add_argument("--attribute", choices=("eyes", "mouth", "style"), default="eyes", help="what to learn")
    _add_settings(demo)
    demo.set_defaults(run=_demo)

    lab = cli_lab.add_parser(commands)
    lab.set_defaults(run=cli_lab.run_lab)

    bench = cli_bench.add_parser(commands)
    bench.set_defaults(run=cli_bench.run_bench)

    ui = commands.add_parser("ui", help="open the training tab in a browser, without a WebUI")
    ui.add_argument("--checkpoint", type=Path, help="an SD1.5 .safetensors file (default: the bundled tiny model)")
    ui.add_argument("--lora-dir", type=Path, default=Path("models/Lora"), help="where LoRAs go (default: models/Lora)")
    ui.add_argument("--port", type=int, help="of the page's address (default: the first free one from 7860 on)")
    _add_model(ui)
    ui.add_argument("--jobs-db", type=Path, metavar="FOLDER", help="keep the queue there (default: in the extension)")
    ui.add_argument("--no-browser", action="store_true", help="print the address only")
    ui.set_defaults(run=_ui)

    inspect = commands.add_parser("inspect", help="print what a LoRA file says of itself")
    inspect.add_argument("file", type=Path)
    inspect.set_defaults(run=_inspect)

    cli_lora.add_parser(commands, _add_settings, _settings)

    settings = commands.add_parser("settings", help="print every setting as a Markdown table")
    settings.set_defaults(run=_print_settings)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=tuple(PRESETS), help=f"kind of difference (default: {DEFAULT_PRESET})")
    parser.add_argument("--config", type=Path, help="a TOML file of settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; may be repeated")
    _add_model(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument(
        "--clip-skip",
        type=int,
        default=1,
        metavar="N",
        help="read prompts by the N-th last layer (default: 1, the last)",
    )


def _settings(options: argparse.Namespace, preset: str = DEFAULT_PRESET) -> TrainConfig:
    return from_mapping(_values(options), preset)


def _values(options: argparse.Namespace) -> dict[str, Any]:
    """Preset, then the TOML file, then --set: what was asked for, as `from_mapping` takes it."""
    values = read_toml(options.config) if options.config else {}
    if options.preset:
        values["preset"] = options.preset
    for assignment in options.set:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment} has no value: write it as --set KEY=VALUE.")
        values[name.strip()] = parse_value(name.strip(), text.strip())
    return values


def _train(options: argparse.Namespace) -> int:
    config = _settings(options)
    from lib_addift.hosts.standalone import StandaloneHost

    host = StandaloneHost(
        options.checkpoint, lora_dir=options.lora_dir, device=options.device, precision=config.precision,
        clip_skip=options.clip_skip,
    )  # fmt: skip
    run = TrainingRun(
        host, Request.of(options.original, options.target, options.name, config, overwrite=options.overwrite)
    )
    for finding in run.pair_report.findings:
        print(f"{finding.level}: {finding.text}")
    result = follow(run)
    print(f"{result.verdict}\nSaved {result.path}. Use it as <lora:{result.path.stem}:1>.")
    return 0 if result.path.stem == options.name else 130


def _batch(options: argparse.Namespace) -> int:
    base = _values(options)
    precision = from_mapping(base).precision  # also says what is wrong with the settings
    from lib_addift.hosts.standalone import StandaloneHost

    host = StandaloneHost(
        options.checkpoint, lora_dir=options.lora_dir, device=options.device, precision=precision,
        clip_skip=options.clip_skip,
    )  # fmt: skip
    return cli_batch.run_batch(options, base, host)


def _demo(options: argparse.Namespace) -> int:
    from lib_addift.demo.run import CHECKPOINT, TASKS, run_demo
    from lib_addift.hosts.standalone import StandaloneHost

    task = TASKS[options.attribute]
    config = _settings(options, task.preset)
    host = StandaloneHost(
        CHECKPOINT, lora_dir=options.out, device=options.device, precision=config.precision, clip_skip=options.clip_skip
    )
    report = run_demo(host, task, config, options.out, follow)
    print(f"'{task.value}' {task.attribute} on 64 new faces, from prompts that do not mention {task.attribute}:")
    for weight, key in (("without LoRA", "base_rate"), ("weight 1", "target_rate"), ("weight -1", "reverse_rate")):
        print(f"  {weight:<13}{report[key]:.0%}")
    print(f"  faces in which anything else changed: {report['off_target_change']:.0%}")
    print(f"  recovery of the pair's difference: {report['recovery']:.0%}")
    print(f"See {options.out / 'grid.png'} and {options.out / 'report.json'}.")
    return 0


def _ui(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("gradio") is None:
        raise HostError(
            "the tab needs gradio: run 'python3 install.py ui', which installs it, or 'pip install gradio'."
        )
    from lib_addift.demo.run import CHECKPOINT
    from lib_addift.hosts.standalone import StandaloneHost
    from lib_addift.jobs.local_runner import LocalRunner
    from lib_addift.jobs.queue import Jobs
    from lib_addift.jobs.store import JobStore
    from lib_addift.ui.standalone import launch
    from lib_addift.webui import DATA

    host = StandaloneHost(
        options.checkpoint or CHECKPOINT, lora_dir=options.lora_dir, device=options.device, clip_skip=options.clip_skip
    )
    # Not the WebUI's: that has another model and another LoRA folder.
    jobs = Jobs(host, JobStore(options.jobs_db or DATA / "ui"), LocalRunner())
    address = launch(jobs, port=options.port, open_browser=not options.no_browser, block=False)
    print(f"Train Difference LoRA on {host.model_title}: {address}\nLoRAs go to {options.lora_dir}. Ctrl-C ends it.")
    jobs.start()
    try:
        while not threading.Event().wait(1):  # in short waits, which Ctrl-C ends on Windows too
            pass
    except KeyboardInterrupt:
        print("\nending after the current step; trainings that wait go on at the next start.")
        jobs.close()
    return 0


def _inspect(options: argparse.Namespace) -> int:
    print(describe(options.file))
    return 0


def _print_settings(_options: argparse.Namespace) -> int:
    print(settings_table(), end="")
    return 0


def follow(run: TrainingRun) -> Result:
    """Run a job with a progress bar. On Ctrl-C it ends after the current step and offers what was learnt."""
    with _stop_on_interrupt(run):
        _show(run.events())
    if run.results and run.results[-1].path.stem == run.request.name:
        return run.results[-1]
    if run.steps_done == 0 or not _wants_to_keep(run):
        raise KeyboardInterrupt
    _show(run.keep())
    return run.results[-1]


def _wants_to_keep(run: TrainingRun) -> bool:
    """Ask; without a terminal there is nobody to ask, and what was learnt is kept."""
    if not sys.stdin.isatty():
        return True
    answer = input(f"\nStopped after {run.steps_done} steps. Keep them as '{run.step_name}'? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


@contextmanager
def _stop_on_interrupt(run: TrainingRun) -> Iterator[None]:
    """The first Ctrl-C stops the run between two steps; the second one ends the program at once."""

    def stop(_number: int, _frame: object) -> None:
        run.stop()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show(events: Iterable[Event]) -> None:
    """Draw events as lines of text; on a terminal, progress rewrites its own line."""
    live = sys.stdout.isatty()
    start, start_step, step = time.monotonic(), 0, 0  # when the latest row of steps began, and after which step
    for event in events:
        if isinstance(event, (Snapshot, ResumeState)):
            continue
        if isinstance(event, StepReport):
            if event.note:
                print(f"\r{event.note:<100}")
            step = event.step
            text = _step_line(event, (step - start_step) / max(time.monotonic() - start, 1e-6))
            wanted = live or step in (1, event.total) or step % 10 == 0
        else:
            count = f" {event.done}/{event.total}" if event.total else ""
            text, wanted = event.text + count, live or event.done == event.total
            start, start_step = time.monotonic(), step
        if wanted:
            print(f"\r{text:<100}" if live else text, end="" if live else "\n", flush=True)
    if live:
        print()


def _step_line(report: StepReport, speed: float) -> str:
    """`speed` in steps a second."""
    filled = 24 * report.step // report.total
    skipped = f", {report.skipped} steps skipped (not finite)" if report.skipped else ""
    return (
        f"[{'#' * filled}{'.' * (24 - filled)}] {report.step}/{report.total} loss {report.loss:.5f}, "
        f"{speed:.1f} steps/s, {(report.total - report.step) / speed:.0f} s left{skipped}"
    )
