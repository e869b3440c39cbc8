"""The SQLite file of a store, and the lock of the process that trains."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from lib_addift.errors import JobError
from lib_addift.jobs.store import JobStore


def test_the_lock_is_held_once_and_is_free_again(store: JobStore) -> None:
    first, second = store.worker_lock(), JobStore(store.folder).worker_lock()
    assert first.acquire()
    assert first.acquire(), "it has it already"
    assert not second.acquire()
    first.release()
    assert second.acquire()
    assert not first.acquire()
    second.release()


def test_a_store_of_another_version_or_none_at_all_is_refused(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "newer")
    store._database.execute("PRAGMA user_version = 99")
    with pytest.raises(JobError, match="are of version 99 and this program reads 1: update the extension"):
        JobStore(tmp_path / "newer")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "jobs.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(JobError, match="cannot be read or written"):
        JobStore(tmp_path / "broken")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JobError, match="cannot be read or written"):
        JobStore(tmp_path / "file")


def test_there_is_no_write_ahead_log(store: JobStore) -> None:
    (mode,) = sqlite3.connect(store.folder / "jobs.sqlite3").execute("PRAGMA journal_mode").fetchone()
    assert mode == "delete", "a log of its own does not work on network drives"
