"""Jobs read from the store: after a restart, and as another process changes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_addift.errors import JobError
from lib_addift.jobs.queue import Jobs, JobState
from tests.support.fake_host import FakeHost
from tests.support.jobs import Gate, ended, only, request, until


def test_everything_about_a_job_survives_a_restart(open_jobs: Callable[..., Jobs]) -> None:
    jobs = open_jobs()
    before = ended(jobs, jobs.submit(request(preview_every=1)))
    jobs.close()
    jobs = open_jobs()
    after = only(jobs)
    assert after is not before
    assert after.record() == before.record()
    assert (after.id, after.state, after.request, after.report) == (
        before.id, before.state, before.request, before.report,
    )  # fmt: skip
    assert after.losses == before.losses
    assert after.results[0].verdict == before.results[0].verdict == after.text
    assert after.results[0].round_trip == before.results[0].round_trip
    assert after.thumbnail is not None
    assert after.pair.original.tobytes() == before.pair.original.tobytes()
    for one, other in zip(after.snapshots, before.snapshots, strict=True):
        assert one.step == other.step
        assert one.strip.tobytes() == other.strip.tobytes()
        assert all(torch.equal(tensor, other.tensors[key]) for key, tensor in one.tensors.items())


@pytest.mark.slow
def test_another_process_sees_stops_moves_and_submits(tmp_path: Path, open_jobs: Callable[..., Jobs]) -> None:
    worker, other = open_jobs(), open_jobs(FakeHost(tmp_path / "lora"))
    gate = worker.host.at["step 1 of 3"] = Gate()  # type: ignore[attr-defined]
    running, waiting = worker.submit(request("a")), worker.submit(request("b"))
    gate.wait()
    submitted = other.submit(request("c"))
    with pytest.raises(JobError, match="'A' is being trained already"):
        other.submit(request("A"))
    until(lambda: [job.state for job in other.all()] == [JobState.RUNNING, JobState.QUEUED, JobState.QUEUED])
    other.move(submitted.id, waiting.id)
    other.stop(running.id)
    other.stop(waiting.id)
    gate.open()
    assert ended(worker, running).state is JobState.STOPPED
    until(lambda: not any(job.is_active for job in other.all()))
    assert [job.state for job in other.all()] == [JobState.STOPPED, JobState.STOPPED, JobState.DONE]
    assert ended(other, submitted).results[0].path == tmp_path / "lora" / "c.safetensors"
    until(lambda: len(worker.all()) == 3 and worker.get(submitted.id).state is JobState.DONE)
    assert waiting.state is JobState.STOPPED
    assert [path.stem for path in worker.host.refreshed] == ["c"]  # type: ignore[attr-defined]
    other.remove(submitted.id)
    until(lambda: len(worker.all()) == 2)
