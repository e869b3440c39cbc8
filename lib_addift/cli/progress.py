"""A training run on the terminal: its progress, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lib_addift.training.events import Event, Result, ResumeState, Snapshot
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport


def follow(run: TrainingRun) -> Result:
    """Run a job with a progress bar. On Ctrl-C it ends after the current step and offers what was learnt."""
    with _stop_on_interrupt(run):
        _show(run.events())
    if not run.is_finished:
        if not run.can_keep or not _wants_to_keep(run):
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
