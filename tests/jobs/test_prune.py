"""What ended jobs give up."""

from __future__ import annotations

import pytest

import lib_addift.jobs.prune
from lib_addift.errors import (
    JobError,
)
from lib_addift.jobs.queue import Jobs, JobState
from tests.support.jobs import Gate, WatchedHost, done, ended, request


def test_old_jobs_give_their_snapshots_up_but_not_what_waits_to_be_saved(
    jobs: Jobs, host: WatchedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [done(jobs, name=f"n{number}", preview_every=1, max_train_steps=1) for number in range(6)]
    gate = host.at["encoding the pictures"] = Gate()
    size = many[0].files.kept_bytes()
    assert size > 1000
    monkeypatch.setattr(lib_addift.jobs.prune, "_MOST_KEPT", int(5.5 * size))
    running = jobs.submit(request("n6"))
    gate.wait()
    assert [len(job.snapshots) for job in many] == [0, 1, 1, 1, 1, 1]
    with pytest.raises(JobError, match="not kept"):
        jobs.save_step(many[0].id, 1)
    assert many[0].results[0].path.is_file()
    jobs.save_step(many[1].id, 1)
    last = jobs.submit(request("n7"))
    gate.open()
    ended(jobs, last)
    assert ended(jobs, many[1]).error == ""
    assert running.state is JobState.DONE
    assert [result.path.stem for result in many[1].results] == ["n1", "n1-step1"]
    assert len(jobs.all()) == 8, "the jobs themselves stay"


def test_jobs_that_wait_do_not_cost_a_job_its_snapshots(jobs: Jobs, host: WatchedHost, gate: Gate) -> None:
    many = [jobs.submit(request(f"n{number}", max_train_steps=1)) for number in range(7)]
    gate.wait()
    second = Gate()
    host.at["step 1 of 1"] = lambda: host.at.update({"encoding the pictures": second})
    gate.open()
    second.wait()
    assert [job.state for job in many[:3]] == [JobState.DONE, JobState.RUNNING, JobState.QUEUED]
    assert [snapshot.step for snapshot in many[0].snapshots] == [1]
    for job in many:
        jobs.stop(job.id)
    second.open()
    ended(jobs, many[1])
