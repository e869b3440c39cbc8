"""One job: its version and the time that is left."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

import lib_addift.jobs.job
from lib_addift.jobs.queue import Jobs
from lib_addift.training.events import Stage
from lib_addift.training.state import StepReport
from tests.support.jobs import WatchedHost, ended, request


def test_every_visible_change_makes_the_version_grow(jobs: Jobs, host: WatchedHost) -> None:
    seen: list[tuple[int, str]] = []
    host.report = lambda *_: seen.append((jobs.latest().version, jobs.latest().text))  # type: ignore[method-assign]
    job = jobs.submit(request(preview_every=1))
    first = job.version
    ended(jobs, job)
    versions = [version for version, _ in seen]
    assert versions == sorted(set(versions)), "each event is one change at least"
    assert first <= versions[0]
    assert job.version > versions[-1]
    assert [text for _, text in seen][-6:-4] == ["training", "training"]


def clocked(monkeypatch: pytest.MonkeyPatch, times: list[float]) -> None:
    clock = SimpleNamespace(monotonic=iter(times).__next__, time=time.time)
    monkeypatch.setattr(lib_addift.jobs.job, "time", clock)


def test_the_time_left_is_that_of_the_steps_so_far(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.pause()
    job, seen = jobs.submit(request(max_train_steps=4)), []
    clocked(monkeypatch, [100.0, 102.0, 104.0, 107.0])  # the first step, at 100, took long
    for event in [*(StepReport(step, 4, 0.1, 1e-4, 0) for step in range(1, 5)), Stage("saving")]:
        job.record_event(event, lambda *_: seen.append((job.progress, job.seconds_left)))
    assert seen == [(0.25, None), (0.5, 4.0), (0.75, 2.0), (1.0, 0.0), (1.0, None)]
