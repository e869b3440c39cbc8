from __future__ import annotations

import os
import time

import pytest

from lib_addift.errors import JobError
from lib_addift.jobs.store import JobStore, is_job_id


def states(store: JobStore) -> dict[str, str]:
    return {row.id: row.state for row in store.rows()}


def add(store: JobStore, *names: str) -> None:
    for name in names:
        store.add(name, name, {}, {})


# Rows


def test_jobs_keep_their_order_and_their_state(store: JobStore) -> None:
    add(store, "a", "b", "c")
    assert store.begin("b")
    assert not store.begin("b"), "nothing is begun twice"
    assert not store.cancel("b", {})
    assert store.cancel("a", {"text": "no"})
    assert states(JobStore(store.folder)) == {"a": "stopped", "b": "running", "c": "queued"}
    assert store.queue() == ["c"]
    store.put_back("b", {}, 2)
    assert store.queue() == ["b", "c"]
    assert [row.interruptions for row in store.rows()] == [0, 2, 0]
    assert store.requeue("a", "a", {})
    assert not store.requeue("a", "a", {}), "it waits already"
    assert store.queue() == ["b", "c", "a"]


def test_a_name_is_active_once(store: JobStore) -> None:
    store.add("one", "Straße", {}, {})
    with pytest.raises(JobError, match="'STRASSE' is being trained already"):
        store.add("two", "STRASSE", {}, {})
    store.cancel("one", {})
    store.add("two", "STRASSE", {}, {})
    with pytest.raises(JobError, match="being trained already"):
        store.requeue("one", "Straße", {})
    assert states(store) == {"one": "stopped", "two": "queued"}


def test_a_transaction_that_fails_changes_nothing(store: JobStore) -> None:
    add(store, "a")
    with pytest.raises(KeyError), store._change() as database:
        database.execute("DELETE FROM jobs")
        raise KeyError
    assert states(store) == {"a": "queued"}


def test_only_what_others_have_written_is_a_change(store: JobStore) -> None:
    other = JobStore(store.folder)
    assert store.has_changed()
    add(store, "a")
    assert not store.has_changed()
    other.pause(True)
    assert (store.has_changed(), store.has_changed(), store.is_paused) == (True, False, True)


def test_saves_wait_in_order_and_keep_their_job_from_being_removed(store: JobStore) -> None:
    add(store, "a")
    store.cancel("a", {})
    for step in (2, 1):
        store.add_save("a", step)
    first, second = store.saves()
    assert (first.step, second.step, store.rows()[0].saves) == (2, 1, 2)
    store.begin_save(first)
    assert [save.attempts for save in store.saves()] == [1, 0]
    assert not store.remove("a")
    store.end_save(first, "stopped", {})
    store.drop_save(second)
    assert store.remove("a")
    assert (store.rows(), store.remove("a")) == ([], False)


def test_leftovers_are_swept_and_nothing_else(store: JobStore) -> None:
    add(store, "0123abcd")
    kept = store.folder / "0123abcd"
    old, young, other = (store.folder / name for name in ("deadbeef", "deadbee0", "mine"))
    for folder in (kept, old, young, other):
        folder.mkdir()
        (folder / "original0.png").touch()
    (kept / "checkpoint.1234.tmp").touch()
    for folder in (kept, old, other):
        os.utime(folder, (time.time() - 10**5,) * 2)
    store.sweep()
    assert sorted(path.name for path in store.folder.iterdir() if path.is_dir()) == ["0123abcd", "deadbee0", "mine"]
    assert [path.name for path in kept.iterdir()] == ["original0.png"]
    assert not is_job_id("0123abcg")


def test_a_temporary_store_goes_with_its_object() -> None:
    store = JobStore.temporary()
    folder = store.folder
    add(store, "a")
    assert (folder / "jobs.sqlite3").is_file()
    del store
    assert not folder.exists()
