"""The SQLite file of a job store: its tables, how it is opened, and the lock of the process that trains."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib_addift.errors import JobError

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they came
    id TEXT NOT NULL UNIQUE,
    folded_name TEXT NOT NULL,                 -- to Windows, capitals are the same
    state TEXT NOT NULL,
    position INTEGER NOT NULL,                 -- in the queue
    stop INTEGER NOT NULL DEFAULT 0,           -- somebody wants it to end
    keep INTEGER NOT NULL DEFAULT 0,           -- and what it learnt to be saved
    interruptions INTEGER NOT NULL DEFAULT 0,  -- how often its process died
    request TEXT NOT NULL,                     -- JSON, as is record
    record TEXT NOT NULL
);
CREATE UNIQUE INDEX one_active_job_of_a_name ON jobs (folded_name) WHERE state IN ('queued', 'running');
CREATE TABLE saves (number INTEGER PRIMARY KEY, job TEXT NOT NULL, step INTEGER NOT NULL, attempts INTEGER NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def connect(path: Path, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)


def _statements(script: str) -> Sequence[str]:
    return [statement for statement in script.split(";\n") if statement.strip()]


def create_tables(database: sqlite3.Connection, folder: Path) -> None:
    """Make the tables in a new file, inside a transaction. Raises JobError for a file of another version."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in _statements(_SCHEMA):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    elif version != _SCHEMA_VERSION:
        raise JobError(
            f"the jobs in '{folder}' are of version {version} and this program reads {_SCHEMA_VERSION}: "
            "update the extension, or move the folder away."
        )


@contextmanager
def report_database_errors(folder: Path) -> Iterator[None]:
    """What SQLite and the disk refuse becomes one sentence of a JobError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise JobError(
            f"the jobs in '{folder}' cannot be read or written ({error}): check the disk and the folder's permissions."
        ) from error


class WorkerLock:
    """Held by the one process that trains. The system frees it when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def acquire(self) -> bool:
        """Take it if it is free; returns whether this object holds it."""
        if self._database is None:
            database = connect(self._path, 0)
            try:
                database.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                database.close()
            except BaseException:
                database.close()
                raise
            else:
                self._database = database
                weakref.finalize(self, database.close)
        return self._database is not None

    def release(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
