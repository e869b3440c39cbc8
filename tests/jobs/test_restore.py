"""Jobs that another version, or damage, has written: shown with what is wrong, removed, or trained anew."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import AddiftError
from lib_addift.jobs.queue import Jobs, JobState
from lib_addift.jobs.restore import usable_settings
from lib_addift.jobs.store import JobStore
from tests.support.jobs import ended, loras, only, request

_UNKNOWN = {"shiny": 3, "method": "telepathy", "rank": "a hundred", "layers": ["wheels"], "seed": None}


def rewritten(store: JobStore, job_id: str, **columns: Any) -> None:
    """As another version would have written the row."""
    with store._change() as database:
        for name, value in columns.items():
            database.execute(f"UPDATE jobs SET {name} = ? WHERE id = ?", (value, job_id))


def request_with(jobs: Jobs, job_id: str, **settings: Any) -> str:
    (row,) = [row for row in jobs._store.rows() if row.id == job_id]
    values = json.loads(row.request)
    return json.dumps({**values, "settings": {**values["settings"], **settings}})


@pytest.fixture
def left(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> Callable[..., Jobs]:
    """The store after a restart, with one job 'blink' whose row was changed; the queue stands still."""

    def leave(state: str = "queued", request_text: str = "", **settings: Any) -> Jobs:
        jobs = open_jobs()
        jobs.pause()
        job = jobs.submit(request())
        jobs.close()
        text = request_text or request_with(jobs, job.id, **settings)
        rewritten(jobs._store, job.id, request=text, state=state)
        return open_jobs()

    return leave


@pytest.mark.parametrize("setting", _UNKNOWN)
def test_a_job_with_an_unknown_setting_is_shown_and_trained_with_the_others(
    setting: str, left: Callable[..., Jobs]
) -> None:
    jobs = left(**{setting: _UNKNOWN[setting]})
    job = only(jobs)
    assert (job.name, job.state) == ("blink", JobState.QUEUED)
    assert f"('{setting}')" in job.error
    assert "retry it to train with the other settings, or remove it" in job.error
    jobs.retry(job.id)
    jobs.resume()
    assert ended(jobs, job).state is JobState.DONE
    assert (job.problem, job.error) == ("", "")
    assert loras(jobs.host) == ["blink.safetensors"]  # type: ignore[arg-type]


def test_what_is_trained_anew_is_a_whole_job_after_a_restart(
    left: Callable[..., Jobs], open_jobs: Callable[..., Jobs]
) -> None:
    jobs = left(shiny=1)
    jobs.retry(only(jobs).id)
    jobs.close()
    job = only(open_jobs())
    assert (job.problem, job.error, job.state) == ("", "", JobState.QUEUED)
    assert job.request.config.max_train_steps == request().config.max_train_steps


@pytest.mark.parametrize("state", ["queued", "running", "stopped", "failed", "done", "dreaming"])
def test_it_can_be_removed_and_its_name_is_free(state: str, left: Callable[..., Jobs]) -> None:
    jobs = left(state, shiny=1)
    old = only(jobs)
    if state == "running":  # of a process that died: known when this one is the worker
        jobs.start()
    ended(jobs, old) if state == "running" else None
    new = jobs.submit(request())
    assert new.id != old.id
    jobs.remove(old.id)
    assert [job.id for job in jobs.all()] == [new.id]
    jobs.resume()
    assert ended(jobs, new).state is JobState.DONE


def test_the_worker_ends_it_and_goes_on_with_the_next(left: Callable[..., Jobs]) -> None:
    jobs = left(shiny=1)
    other = jobs.submit(request("other"))
    jobs.resume()
    assert ended(jobs, other).state is JobState.DONE
    old = jobs.all()[0]
    assert old.state is JobState.FAILED
    assert "'shiny'" in old.error


@pytest.mark.slow
def test_whatever_a_row_holds_it_is_shown(
    tmp_path: Path, open_jobs: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of rows cut, flipped and swapped, with a seed: every job is listed."""
    chance = random.Random(16)
    jobs = open_jobs()
    jobs.pause()
    job = jobs.submit(request())
    jobs.close()
    (row,) = jobs._store.rows()
    for number in range(120):
        store = jobs._store
        text = {"request": row.request, "record": row.record}
        column = chance.choice(list(text))
        changed = mutated(text[column], chance)
        rewritten(store, job.id, **{**text, "state": chance.choice(["queued", "running", "done"]), column: changed})
        again = Jobs(jobs.host, JobStore(tmp_path / "store"))
        found = only(again)
        assert found.name
        assert found.record() is not None
        assert found.progress >= 0, number


def mutated(text: str, chance: random.Random) -> str:
    """A text with one fault of a kind that damage or another version makes."""
    start = chance.randrange(len(text))
    kind = chance.randrange(4)
    if kind == 0:
        return text[:start]
    if kind == 1:
        return text[:start] + chr(chance.randrange(1, 0x300)) + text[start + 1 :]
    values = json.loads(text)
    key = chance.choice(list(values))
    values[key] = chance.choice([None, [], {}, "x", -1, 1e300, [None], {"x": 1}, True])
    if kind == 3:
        del values[key]
    return json.dumps(values)


@pytest.mark.slow
def test_settings_that_contradict_each_other_are_left_out_and_nothing_else() -> None:
    chance = random.Random(5)
    whole = TrainConfig.create("action").to_dict()
    for _ in range(30):
        wrong = {name: _UNKNOWN[name] for name in chance.sample(sorted(_UNKNOWN), chance.randrange(1, 4))}
        config, lost = usable_settings({**whole, **wrong})
        assert set(lost) == set(wrong)
        assert {name: value for name, value in config.to_dict().items() if name not in wrong} == {
            name: value for name, value in whole.items() if name not in wrong
        }
    with pytest.raises(AddiftError):
        TrainConfig.create(**{**whole, "shiny": 1})
