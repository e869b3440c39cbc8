"""The SQLite file of a store, and the lock of the process that trains."""

from __future__ import annotations

import errno
import os
import random
import secrets
import shutil
import sqlite3
from pathlib import Path
from typing import Any, cast

import pytest

from lib_addift.errors import JobError
from lib_addift.jobs.database import FILE
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


def test_a_store_of_another_version_or_in_a_file_is_refused(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "newer")
    with store._database.read() as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(JobError, match="are of version 99 and this program reads 1: update the extension"):
        JobStore(tmp_path / "newer")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JobError, match="cannot be read or written"):
        JobStore(tmp_path / "file")


def test_there_is_no_write_ahead_log(store: JobStore) -> None:
    (mode,) = sqlite3.connect(store.folder / "jobs.sqlite3").execute("PRAGMA journal_mode").fetchone()
    assert mode == "delete", "a log of its own does not work on network drives"


# A disk that refuses


class Refusing:
    """A connection on which statements that begin so fail, as they do on a full disk."""

    def __init__(self, database: sqlite3.Connection, *refused: str) -> None:
        self._database, self._refused = database, refused

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        for words in self._refused:
            if sql.startswith(words):
                raise sqlite3.OperationalError("disk I/O error" if words == "ROLLBACK" else "database or disk is full")
        return self._database.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


@pytest.mark.parametrize("refused", [("INSERT", "ROLLBACK"), ("COMMIT", "ROLLBACK"), ("COMMIT",), ("BEGIN",)])
def test_a_full_disk_is_named_though_the_rollback_fails_too(store: JobStore, refused: tuple[str, ...]) -> None:
    database = store._database
    database._opened = cast(sqlite3.Connection, Refusing(database._connection(), *refused))
    with pytest.raises(JobError, match=r"database or disk is full\): make room there"):
        store.add("a", "a", {}, {})
    assert store.rows() == [], "nothing of it is there"
    store.add("a", "a", {}, {})
    assert [row.id for row in store.rows()] == ["a"], "and it works as soon as there is room"


def test_a_page_limit_is_a_full_disk(store: JobStore) -> None:
    with store._database.read() as database:
        database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(JobError, match="make room there"):
        store.add("a", "a", {"x": "y" * 10**6}, {})
    store.add("a", "a", {"x": "y" * 10**6}, {})


def test_a_file_that_could_only_be_read_is_written_as_soon_as_it_may(store: JobStore) -> None:
    database = store._database
    with database.read() as opened:
        opened.execute("PRAGMA query_only = ON")  # what a connection is that was opened in a read-only folder
    with pytest.raises(
        JobError, match=r"readonly database\): make this folder and the files in it writable; a restart"
    ):
        store.pause(True)
    store.pause(True)
    assert store.is_paused


def test_a_folder_that_cannot_be_made_has_no_jobs_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_args: object, **_kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        store = JobStore(tmp_path / "data")
        assert (store.rows(), store.queue(), store.saves(), store.is_paused) == ([], [], [], False)
        assert not store.worker_lock().acquire()
        with pytest.raises(JobError, match="make this folder and the files in it writable; a restart is not needed"):
            store.add("a", "a", {}, {})
        store.has_changed()
    store.add("a", "a", {}, {})
    assert store.has_changed()
    assert [row.id for row in store.rows()] == ["a"]
    assert store.worker_lock().acquire()


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="needs to become a user who may not write")
def test_a_read_only_folder_made_writable_works_without_a_restart(tmp_path: Path) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    folder = tmp_path / "data"
    JobStore(folder).add("a", "a", {}, {})
    os.seteuid(65534)
    try:
        store = JobStore(folder)
        assert [row.id for row in store.rows()] == ["a"]
        with pytest.raises(JobError, match="make this folder and the files in it writable"):
            store.pause(True)
        assert not store.worker_lock().acquire()
    finally:
        os.seteuid(0)
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        store.pause(True)
        assert store.worker_lock().acquire()
    finally:
        os.seteuid(0)


# A damaged file


def filled(folder: Path) -> bytes:
    """A store with some jobs; returns the bytes of its file."""
    store = JobStore(folder)
    for number in range(12):
        text = {"name": f"set{number}", "text": "é" * 700}
        store.add(f"{number:08x}", f"set{number}", text, text)
    store.add_save("00000001", 2)
    store._database.close()
    return (folder / FILE).read_bytes()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file cut, with bytes flipped, with a page of zeros or of another page, or of something else altogether."""
    changed, page = bytearray(data), 4096
    kind = chance.choice(["bits", "bits", "header", "cut", "zeros", "page", "other"])
    if kind == "cut":
        return data[: chance.randrange(1, len(data))]
    if kind == "other":
        return chance.randbytes(chance.randrange(1, 9000))
    if kind in ("bits", "header"):
        for _ in range(chance.randrange(1, 9)):
            place = chance.randrange(100 if kind == "header" else len(data))
            changed[place] ^= 1 << chance.randrange(8)
        return bytes(changed)
    first, second = (page * chance.randrange(len(data) // page) for _ in range(2))
    changed[first : first + page] = bytes(page) if kind == "zeros" else data[second : second + page]
    return bytes(changed)


@pytest.mark.parametrize("count", [30, pytest.param(1500, marks=[pytest.mark.slow, pytest.mark.long])])
def test_a_damaged_file_is_set_aside_and_work_goes_on(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the bytes: the store opens, can be read and written, or says which version it is of."""
    data, aside = filled(tmp_path / "whole"), 0
    for seed in range(count):
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / FILE).write_bytes(damaged(data, random.Random(seed)))
        try:
            store = JobStore(folder)
        except JobError as error:
            assert "update the extension, or move the folder away" in str(error), seed  # noqa: PT017
            continue
        use(store)
        if store.notice:
            aside += 1
            (kept,) = folder.glob("jobs.damaged-*.sqlite3")
            assert kept.name in store.notice
            assert store.notice in caplog.messages
        use(JobStore(folder))
        shutil.rmtree(folder)
    assert aside > count / 3


def use(store: JobStore) -> None:
    """All that is asked of a store."""
    name = secrets.token_hex(4)
    store.add(name, name, {}, {})
    assert name in store.queue()
    assert name in [row.id for row in store.rows()]
    store.saves()
    store.pause(not store.is_paused)
    assert store.begin(name)
    store.put_back(name, {}, 1)
    assert store.cancel(name, {})
    assert store.remove(name)
    store.sweep()


def test_the_files_of_jobs_stay_when_their_list_is_set_aside(tmp_path: Path) -> None:
    filled(tmp_path)
    folder = tmp_path / "0000000a"
    folder.mkdir()
    os.utime(folder, (0, 0))
    with (tmp_path / FILE).open("r+b") as file:
        file.truncate(5000)
    store = JobStore(tmp_path)
    store.sweep()
    assert folder.is_dir()
    assert "the queue begins anew; LoRAs and the jobs' pictures stay" in store.notice


def test_a_damaged_lock_is_replaced(store: JobStore) -> None:
    (store.folder / "worker.lock").write_bytes(b"no database" * 100)
    lock = store.worker_lock()
    assert lock.acquire() or lock.acquire()
