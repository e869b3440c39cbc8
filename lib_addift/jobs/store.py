"""Jobs on the disk: one SQLite file for what is known of them, and a folder with the files of each.

Several processes may use one store. The rows are the truth; files are written before the row that names them, so that a
process that dies at any moment leaves a store that is whole. One process at a time, the worker, trains.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_addift.errors import JobError
from lib_addift.files import name_key
from lib_addift.jobs.database import SET_ASIDE, Database, WorkerLock
from lib_addift.jobs.files import JobFiles

_log = logging.getLogger(__name__)

_LEFTOVER_AGE = 3600.0  # seconds; a younger folder without a row may belong to a job that is being submitted
_ENDED = "state NOT IN ('queued', 'running')"
_ROWS = """
SELECT number, CAST(id AS TEXT), CAST(folded_name AS TEXT), CAST(state AS TEXT), CAST(position AS INTEGER),
    CAST(stop AS INTEGER), CAST(keep AS INTEGER), CAST(interruptions AS INTEGER),
    (SELECT count(*) FROM saves WHERE job = id), CAST(request AS TEXT), CAST(record AS TEXT)
FROM jobs ORDER BY number
"""


@dataclass(frozen=True)
class JobRow:
    """A job as the database has it."""

    number: int
    id: str
    folded_name: str
    state: str
    position: int  # in the queue; a job that runs keeps the one that it had
    stop: bool
    keep: bool
    interruptions: int
    saves: int  # kept steps that wait to be saved
    request: str
    record: str


@dataclass(frozen=True)
class Save:
    """A kept step that waits to be saved."""

    number: int
    job_id: str
    step: int
    attempts: int  # so far


class JobStore:
    """The jobs in one folder. Safe for several threads and several processes. Methods raise JobError."""

    def __init__(self, folder: Path, *, is_shared: bool = True) -> None:
        self.folder, self.is_shared = Path(folder), is_shared
        self._database = Database(self.folder, durable=is_shared)  # else nothing is left to be read after a crash
        self._seen: tuple[int, int] | None = None
        self.rows()

    @classmethod
    def temporary(cls) -> JobStore:
        """A store of this process alone, which goes with the object."""
        folder = Path(tempfile.mkdtemp(prefix="addift-"))
        store = cls(folder, is_shared=False)
        weakref.finalize(store, _remove_store, store._database, folder)
        return store

    @property
    def notice(self) -> str:
        """What a person should know of the store: that a damaged one was set aside; or ''."""
        return self._database.notice

    def files(self, job_id: str) -> JobFiles:
        return JobFiles(self.folder / job_id, durable=self.is_shared)

    def worker_lock(self) -> WorkerLock:
        """For the process that is to train; each call makes another contender."""
        return WorkerLock(self.folder / "worker.lock")

    def has_changed(self) -> bool:
        """Whether another process has written since the last call; True at first."""
        with self._database.read() as database:
            (version,) = database.execute("PRAGMA data_version").fetchone()
            before, self._seen = self._seen, (self._database.openings, version)
            return before != self._seen

    def rows(self) -> list[JobRow]:
        """Every job, the oldest first."""
        with self._database.read() as database:
            return [JobRow(*row) for row in database.execute(_ROWS)]

    def add(self, job_id: str, name: str, request: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """A new job at the end of the queue, whose files are there. Raises JobError when its name is at work."""
        with self._change() as database, _one_of_a_name(name):
            database.execute(
                "INSERT INTO jobs (id, folded_name, state, position, request, record) VALUES "
                "(?, ?, 'queued', (SELECT coalesce(max(position), 0) + 1 FROM jobs), ?, ?)",
                (job_id, name_key(name), json.dumps(request), json.dumps(record)),
            )

    def write(self, job_id: str, state: str, record: Mapping[str, Any]) -> None:
        """How a job stands now; for the worker."""
        with self._change() as database:
            database.execute("UPDATE jobs SET state = ?, record = ? WHERE id = ?", (state, json.dumps(record), job_id))

    def begin(self, job_id: str) -> bool:
        """Make a queued job a running one; returns whether it still was in the queue."""
        with self._change() as database:
            done = database.execute("UPDATE jobs SET state = 'running' WHERE id = ? AND state = 'queued'", (job_id,))
            return done.rowcount == 1

    def cancel(self, job_id: str, record: Mapping[str, Any]) -> bool:
        """Stop a job that waits; returns whether it still was in the queue."""
        with self._change() as database:
            done = database.execute(
                "UPDATE jobs SET state = 'stopped', stop = 1, record = ? WHERE id = ? AND state = 'queued'",
                (json.dumps(record), job_id),
            )
            return done.rowcount == 1

    def ask_to_stop(self, job_id: str, keep: bool) -> None:
        """Tell the worker that a job is to end."""
        with self._change() as database:
            database.execute("UPDATE jobs SET stop = 1, keep = max(keep, ?) WHERE id = ?", (keep, job_id))

    def queue(self) -> list[str]:
        """The jobs that wait, the next one first."""
        with self._database.read() as database:
            found = database.execute("SELECT CAST(id AS TEXT) FROM jobs WHERE state = 'queued' ORDER BY position")
            return [job_id for (job_id,) in found]

    def requeue(
        self, job_id: str, name: str, record: Mapping[str, Any], request: Mapping[str, Any] | None = None
    ) -> bool:
        """Put an ended job at the end of the queue, with another `request` where one is given.

        Returns whether it was ended. Raises JobError as `add` does.
        """
        with self._change() as database, _one_of_a_name(name):
            done = database.execute(
                "UPDATE jobs SET state = 'queued', stop = 0, keep = 0, interruptions = 0, record = ?, folded_name = ?, "
                "request = coalesce(?, request), position = (SELECT max(position) + 1 FROM jobs) "
                f"WHERE id = ? AND {_ENDED}",
                (json.dumps(record), name_key(name), json.dumps(request) if request else None, job_id),
            )
            return done.rowcount == 1

    def put_back(self, job_id: str, record: Mapping[str, Any], interruptions: int) -> None:
        """Put a running job at the head of the queue."""
        with self._change() as database:
            database.execute(
                "UPDATE jobs SET state = 'queued', interruptions = ?, record = ?, "
                "position = (SELECT min(position) - 1 FROM jobs) WHERE id = ?",
                (interruptions, json.dumps(record), job_id),
            )

    def move(self, job_id: str, before: str | None) -> bool:
        """Move a queued job before another one, or to the end; returns whether both are in the queue."""
        with self._change() as database:
            query = "SELECT id, position FROM jobs WHERE state = 'queued' ORDER BY position"
            found = database.execute(query).fetchall()
            ids, positions = [row[0] for row in found], [row[1] for row in found]
            if job_id not in ids or (before is not None and before not in ids):
                return False
            if before != job_id:
                ids.remove(job_id)
                ids.insert(ids.index(before) if before is not None else len(ids), job_id)
                pairs = zip(positions, ids, strict=True)
                database.executemany("UPDATE jobs SET position = ? WHERE id = ?", list(pairs))
            return True

    def remove(self, job_id: str) -> bool:
        """Forget an ended job and its files; returns whether there was one. LoRAs that it saved stay."""
        with self._change() as database:
            waits = "EXISTS (SELECT 1 FROM saves WHERE job = id)"
            done = database.execute(f"DELETE FROM jobs WHERE id = ? AND {_ENDED} AND NOT {waits}", (job_id,))
        if done.rowcount and is_job_id(job_id):
            shutil.rmtree(self.folder / job_id, ignore_errors=True)  # what is left, `sweep` removes
        return done.rowcount == 1

    def add_save(self, job_id: str, step: int) -> None:
        """Have the worker save a kept step."""
        with self._change() as database:
            database.execute("INSERT INTO saves (job, step, attempts) VALUES (?, ?, 0)", (job_id, step))

    def saves(self) -> list[Save]:
        """The kept steps that wait to be saved, the oldest first."""
        query = "SELECT number, CAST(job AS TEXT), CAST(step AS INTEGER), CAST(attempts AS INTEGER) FROM saves"
        with self._database.read() as database:
            return [Save(*row) for row in database.execute(f"{query} ORDER BY number")]

    def begin_save(self, save: Save) -> None:
        """Count an attempt, before it is made: it may take the process with it."""
        with self._change() as database:
            database.execute("UPDATE saves SET attempts = attempts + 1 WHERE number = ?", (save.number,))

    def end_save(self, save: Save, state: str, record: Mapping[str, Any]) -> None:
        """A kept step is saved, or cannot be."""
        with self._change() as database:
            database.execute("DELETE FROM saves WHERE number = ?", (save.number,))
            database.execute(
                "UPDATE jobs SET state = ?, record = ? WHERE id = ?", (state, json.dumps(record), save.job_id)
            )

    def drop_save(self, save: Save) -> None:
        """Forget a kept step that waits, whose job is not there."""
        with self._change() as database:
            database.execute("DELETE FROM saves WHERE number = ?", (save.number,))

    @property
    def is_paused(self) -> bool:
        with self._database.read() as database:
            return database.execute("SELECT 1 FROM facts WHERE name = 'paused'").fetchone() is not None

    def pause(self, paused: bool) -> None:
        with self._change() as database:
            database.execute("DELETE FROM facts WHERE name = 'paused'")
            if paused:
                database.execute("INSERT INTO facts VALUES ('paused', '1')")

    def sweep(self) -> None:
        """Remove what processes left that died; for the worker. Jobs of a list that was set aside keep their files."""
        rows = self.rows()
        with self._change() as database:  # rows in which no job's id stands
            database.executemany(
                "DELETE FROM jobs WHERE number = ?", [(row.number,) for row in rows if not is_job_id(row.id)]
            )
        known = {row.id for row in rows}
        is_whole = not any(self.folder.glob(f"{SET_ASIDE}*"))
        for folder in self.folder.iterdir():
            if not folder.is_dir():
                continue
            if folder.name in known:
                for file in folder.glob("*.tmp"):
                    with contextlib.suppress(OSError):
                        file.unlink()
            elif is_whole and is_job_id(folder.name) and folder.stat().st_mtime < time.time() - _LEFTOVER_AGE:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self._database.change() as database:
            yield database


def is_job_id(name: str) -> bool:
    """Whether a folder may be a job's: what else lies in the store's folder is not ours."""
    return len(name) == 8 and not set(name) - set("0123456789abcdef")


@contextmanager
def _one_of_a_name(name: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise name_at_work(name) from error


def name_at_work(name: str) -> JobError:
    """Two jobs of one name would write one file."""
    return JobError(f"'{name}' is being trained already: wait for it, stop it, or choose another name.")


def _remove_store(database: Database, folder: Path) -> None:
    database.close()
    shutil.rmtree(folder, ignore_errors=True)
