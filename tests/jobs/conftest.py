"""Queues of jobs on a host that is watched, and stores on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lib_addift.jobs.queue import Jobs, Runner
from lib_addift.jobs.store import JobStore
from tests.support.fake_host import FakeHost
from tests.support.jobs import Gate, WatchedHost


@pytest.fixture
def host(tmp_path: Path) -> WatchedHost:
    return WatchedHost(tmp_path / "lora")


@pytest.fixture
def jobs(host: WatchedHost) -> Jobs:
    return Jobs(host)


@pytest.fixture
def gate(host: WatchedHost) -> Iterator[Gate]:
    """Holds the first job at its first report."""
    gate = host.at["encoding the pictures"] = Gate()
    yield gate
    gate.open()


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "store")


@pytest.fixture
def open_jobs(tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    """Opens the store of this test; each time as after a restart, if the one before was closed."""
    with ExitStack() as stack:

        def open_(
            host: FakeHost | None = None, folder: Path = tmp_path / "store", runner: Runner | None = None
        ) -> Jobs:
            jobs = Jobs(host or WatchedHost(tmp_path / "lora"), JobStore(folder), runner)
            with jobs._store._database.read() as database:
                database.execute("PRAGMA synchronous = OFF")  # a process that dies loses no writes
            stack.callback(jobs.close)
            return jobs

        yield open_
