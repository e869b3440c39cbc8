"""The command `batch`: a folder of image sets becomes a LoRA each, through the same queue that the WebUI has."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_addift.cli.options import add_settings, open_host, setting_values
from lib_addift.diffusion.host import Host
from lib_addift.errors import AddiftError
from lib_addift.files import name_key
from lib_addift.jobs.local_runner import LocalRunner
from lib_addift.jobs.queue import Job, Jobs, JobState
from lib_addift.jobs.store import JobStore
from lib_addift.sets.plan import Planned, plan_batch
from lib_addift.training.estimate import about
from lib_addift.training.methods import from_mapping

if TYPE_CHECKING:
    from lib_addift.jobs.ray.runner import RayRunner

_LOOK_EVERY = 0.5  # seconds


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser("batch", help="a folder of image sets: one LoRA of each")
    parser.add_argument("--checkpoint", type=Path, required=True, help="an SD1.5 or SDXL .safetensors file")
    parser.add_argument("--sets", type=Path, required=True, help="a folder of sets, or one set")
    parser.add_argument("--lora-dir", type=Path, required=True, help="where the LoRAs go, such as models/Lora")
    parser.add_argument("--overwrite", action="store_true", help="replace LoRAs of these names")
    parser.add_argument("--dry-run", action="store_true", help="show sets, pairs, problems and times; train nothing")
    parser.add_argument(
        "--jobs-db", type=Path, metavar="FOLDER", help="keep the queue there: what is not done goes on in the next call"
    )
    parser.add_argument("--together", type=int, default=0, metavar="K", help="sets in one pass; 0: as memory allows")
    parser.add_argument("--ray", metavar="ADDRESS", help="train on a Ray cluster: auto, local or HOST:PORT")
    add_settings(parser)
    parser.set_defaults(run=run_batch)


def run_batch(options: argparse.Namespace) -> int:
    """Show the plan, train, and say how it went. Returns 0, 1 when a set was broken or failed, 130 after Ctrl-C."""
    base = setting_values(options)
    precision = from_mapping(base).precision  # also says what is wrong with the settings
    host = open_host(options, options.checkpoint, options.lora_dir, precision=precision)
    planned = plan_batch(options.sets, base, host, overwrite=options.overwrite)
    print(table(planned))
    if options.dry_run:
        return int(any(each.problem for each in planned))
    store = JobStore(options.jobs_db) if options.jobs_db else None
    runner = _runner(options, host, precision)
    jobs = Jobs(host, store, runner)
    if jobs.notice:
        print(jobs.notice, file=sys.stderr)
    done_before = {name_key(job.name) for job in jobs.all() if job.state is JobState.DONE and job.is_finished}
    try:
        with jobs.held():
            queued, refused = _submit(jobs, planned, done_before)
        jobs.resume()
        _follow(queued)
    except KeyboardInterrupt:
        rest = "the rest goes on in the next call with the same --jobs-db" if store else "the rest is forgotten"
        print(f"\nstopped; LoRAs that were finished stay, and {rest}.", file=sys.stderr)
        return 130
    finally:
        jobs.close()
        runner.close()
    failed = [job for job in queued if job.state is not JobState.DONE]
    print(f"{len(queued) - len(failed)} of {len(planned)} sets are trained; they are in {host.lora_dir}.")
    return int(bool(failed or refused))


def _runner(options: argparse.Namespace, host: Host, precision: str) -> LocalRunner | RayRunner:
    if options.ray is None:
        return LocalRunner(options.together)
    from lib_addift.jobs.ray.runner import RayRunner  # ray is optional

    return RayRunner(
        options.ray, options.checkpoint, lora_dir=host.lora_dir, precision=precision, clip_skip=host.clip_skip
    )


def _submit(jobs: Jobs, planned: Sequence[Planned], done_before: set[str]) -> tuple[list[Job], int]:
    """The jobs of all sets, those of an earlier call included; and how many sets are none."""
    waiting = {name_key(job.name): job for job in jobs.all() if job.is_active and not job.problem}
    queued, refused = [], 0
    for each in planned:
        name = name_key(each.set.name)
        try:
            if name in waiting:
                queued.append(waiting[name])
            elif each.request is not None:
                queued.append(jobs.submit(each.request))
            elif name in done_before:
                print(f"{each.set.name}: trained in an earlier call")
            else:
                refused += 1
        except AddiftError as error:
            refused += 1
            print(f"{each.set.name}: {error}", file=sys.stderr)
    return queued, refused


def _follow(queued: Sequence[Job]) -> None:
    """Say what changes until all jobs have ended."""
    told: dict[str, str] = {}
    while True:
        active = [job for job in queued if job.is_active]
        for job in queued:
            line = _line(job)
            if line and told.get(job.id) != line:
                told[job.id] = line
                print(f"{job.name}: {line}", flush=True)
        if not active:
            return
        time.sleep(_LOOK_EVERY)


def _line(job: Job) -> str:
    """How a job stands, in words that change now and then."""
    if job.is_queued:
        return ""
    if job.state is JobState.FAILED:
        return f"failed: {job.error}"
    if not job.is_running:
        return job.text
    quarter = f"{int(4 * job.progress) * 25} %"
    return f"training, {quarter}" if job.text == "training" else job.text


def table(planned: Iterable[Planned]) -> str:
    """The sets as text: what each has, what is wrong with it, how long it will take."""
    lines, total = [], 0.0
    for each in planned:
        count = f"{len(each.set.pairs)} pair{'s' if len(each.set.pairs) != 1 else ''}"
        when = f", {about(each.seconds)}" if each.seconds is not None else ""
        lines.append(f"{each.set.name}: {count}{when}")
        lines += [f"  {note}" for note in each.set.notes]
        for check in each.checks:
            worries = [finding.text for finding in check.findings if finding.level == "warning"]
            lines += [f"  warning: pair '{check.name}': {text}" for text in worries]
        unseen = sum(not (check.findings or check.problem) for check in each.checks)
        if unseen:
            lines.append(f"  of {unseen} pairs only the files' headers were read; before training all are looked at")
        if each.problem:
            lines.append(f"  problem: {each.problem}")
        total += each.seconds or 0.0
    return "\n".join([*lines, f"In all {about(total)}." if total else "Nothing to train."])
