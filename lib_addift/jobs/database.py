"""The SQLite file of a job store: its tables, how it is opened, what is done with a damaged one, and the worker's lock.

Writing fails as a whole or not at all. A file that was refused (the disk is full, the folder read-only) is opened anew
the next time, so that nothing has to be restarted when the reason is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib_addift.errors import JobError
from lib_addift.files import disk_remedy

_log = logging.getLogger(__name__)

FILE = "jobs.sqlite3"
SET_ASIDE = "jobs.damaged-"  # how the names of damaged files begin
_PATIENCE = 30.0  # seconds to wait for another process, which writes for some milliseconds
_MOST_VERSION = 9999  # a higher one is no version, but damage
# SQLite's words for a file whose bytes are not as it wrote them; Python 3.10 does not have the numbers.
_DAMAGE = ("malformed", "not a database", "unsupported file format", "no such table", "no such column", "no such index")

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
_TRIAL = "INSERT INTO jobs (id, folded_name, state, position, request, record) VALUES ('', '', 'trial', 0, '', '')"
_COLUMNS = (
    "SELECT number, id, folded_name, state, position, stop, keep, interruptions, request, record FROM jobs LIMIT 0",
    "SELECT number, job, step, attempts FROM saves LIMIT 0",
    "SELECT name, value FROM facts LIMIT 0",
)


def connect(path: Path | str, patience: float) -> sqlite3.Connection:
    """A connection of which the caller begins and ends the transactions; damaged text is read with � in it."""
    database = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
    database.text_factory = lambda data: data.decode("utf-8", "replace")
    return database


class Database:
    """The file of one store, for the threads of this process. Raises JobError."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder, self._durable = folder, durable
        self._lock = threading.RLock()
        self._opened: sqlite3.Connection | None = None
        self._empty: sqlite3.Connection | None = None  # read while there is no file and none can be made
        self.openings = 0
        self.notice = ""  # what a person should know: that a damaged file was set aside

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """To read from. Where the folder cannot be written and there is no file yet, there are no jobs."""
        with self._lock, self._watched():
            try:
                database = self._connection()
            except (sqlite3.Error, OSError):
                if os.path.exists(self.folder / FILE) or os.path.isfile(self.folder):
                    raise
                database = self._nothing()
            yield database

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._lock, self._watched():
            database = self._connection()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                # SQLite may have ended it by itself; what the person is told is why it failed, not this.
                with contextlib.suppress(sqlite3.Error):
                    if database.in_transaction:
                        database.execute("ROLLBACK")
                raise

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """After an error the file is opened anew the next time: as a new one if it is damaged, or as one to write."""
        with report_database_errors(self.folder):
            try:
                yield
            except sqlite3.IntegrityError:
                raise
            except (sqlite3.Error, OSError, UnicodeDecodeError):
                self.close()
                raise

    def close(self) -> None:
        with self._lock:
            for database in (self._opened, self._empty):
                if database is not None:
                    database.close()
            self._opened = self._empty = None

    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._opened = self._open()
            self.openings += 1
            weakref.finalize(self, self._opened.close)
            if not self._durable:
                self._opened.execute("PRAGMA synchronous = OFF")
        return self._opened

    def _nothing(self) -> sqlite3.Connection:
        if self._empty is None:
            self._empty = connect(":memory:", 0)
            weakref.finalize(self, self._empty.close)
            _create_tables(self._empty, self.folder)
        return self._empty

    def _open(self) -> sqlite3.Connection:
        database = connect(self.folder / FILE, _PATIENCE)
        try:
            if damage_of(database, self.folder / FILE):
                database.close()
                self._repair()
                database = connect(self.folder / FILE, _PATIENCE)
            _create_tables(database, self.folder)
        except BaseException:
            database.close()
            raise
        return database

    def _repair(self) -> None:
        """Set a damaged file aside. One process at a time: the second one finds the first one's new file."""
        with contextlib.closing(connect(self.folder / "repair.lock", _PATIENCE)) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            with contextlib.closing(connect(self.folder / FILE, _PATIENCE)) as database:
                damage = damage_of(database, self.folder / FILE)
            if damage:
                aside = _set_aside(self.folder)
                self.notice = (
                    f"the list of jobs in '{self.folder}' was damaged ({damage}) and is now '{aside.name}': the queue "
                    "begins anew; LoRAs and the jobs' pictures stay. Delete that file when you need them no more."
                )
                _log.warning(self.notice)


def damage_of(database: sqlite3.Connection, path: Path) -> str:
    """What is wrong with the bytes of a file, or ''. Raises sqlite3.Error for what is not the file's fault."""
    try:
        database.execute("BEGIN")
        with contextlib.closing(database.execute("SELECT user_version FROM pragma_user_version")) as found:
            (version,) = found.fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not 0 <= version <= _MOST_VERSION or (version == 0 and tables):
            return "it has no version"
        (said,) = database.execute("PRAGMA integrity_check(1)").fetchone()  # quick_check does not read the indexes
        if said != "ok":
            return str(said).splitlines()[-1]
        for query in _COLUMNS if version == _SCHEMA_VERSION else ():
            database.execute(query)
        database.execute("ROLLBACK")
        return _write_protection(database, path, version) or _journal_mode(database)
    except UnicodeDecodeError:
        return "its text is none"
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError) or any(words in str(error) for words in _DAMAGE):
            return str(error)
        raise
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


def _write_protection(database: sqlite3.Connection, path: Path, version: int) -> str:
    """Whether the file itself says that it is of a newer SQLite, which may only be read.

    A job is added and taken back, which also raises what the integrity check does not see.
    """
    effective = os.access in os.supports_effective_ids
    if not all(os.access(each, os.W_OK, effective_ids=effective) for each in (path, path.parent)):
        return ""  # it is the system that forbids it
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute(_TRIAL if version == _SCHEMA_VERSION else f"PRAGMA user_version = {version}")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "readonly" in str(error):
            return "its header says that it cannot be written"
    return ""


def _journal_mode(database: sqlite3.Connection) -> str:
    (mode,) = database.execute("PRAGMA journal_mode").fetchone()
    return "" if mode == "delete" else f"its journal is '{mode}', which this program never chooses"


def _set_aside(folder: Path) -> Path:
    """Give the damaged file, and the journal that belongs to it, another name; returns it. Raises OSError."""
    base = f"{SET_ASIDE}{time.strftime('%Y%m%d-%H%M%S')}"
    names = (f"{base}{number}.sqlite3" for number in ("", *(f"-{each}" for each in range(2, 1000))))
    aside = folder / next(name for name in names if not (folder / name).exists())
    for ending in ("-journal", "-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / f"{FILE}{ending}", f"{aside}{ending}")
    return aside


def _statements(script: str) -> Sequence[str]:
    return [statement for statement in script.split(";\n") if statement.strip()]


def _create_tables(database: sqlite3.Connection, folder: Path) -> None:
    """Make the tables in a new file. Raises JobError for a file of another version."""
    if _version(database) == 0:
        database.execute("BEGIN IMMEDIATE")
        if _version(database) == 0:  # still: another process may have been faster
            for statement in _statements(_SCHEMA):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        database.execute("COMMIT")
    version = _version(database)
    if version != _SCHEMA_VERSION:
        raise JobError(
            f"the jobs in '{folder}' are of version {version} and this program reads {_SCHEMA_VERSION}: "
            "update the extension, or move the folder away."
        )


def _version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


@contextmanager
def report_database_errors(folder: Path) -> Iterator[None]:
    """What SQLite and the disk refuse becomes one sentence of a JobError."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
        raise JobError(f"the jobs in '{folder}' cannot be read or written ({error}): {disk_remedy(error)}.") from error


class WorkerLock:
    """Held by the one process that trains. The system frees it when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def acquire(self) -> bool:
        """Take it if it is free; returns whether this object holds it."""
        if self._database is None:
            with contextlib.suppress(sqlite3.OperationalError):  # another one has it, or the folder cannot be written
                database = connect(self._path, 0)
                try:
                    database.execute("BEGIN EXCLUSIVE")
                except BaseException as error:
                    database.close()
                    if isinstance(error, sqlite3.OperationalError) or not isinstance(error, sqlite3.DatabaseError):
                        raise
                    self._path.unlink(missing_ok=True)  # damaged, so nobody has it: there is none the next time
                else:
                    self._database = database
                    weakref.finalize(self, database.close)
        return self._database is not None

    def release(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
