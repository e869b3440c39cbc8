"""How far a job is, with what follows its training steps."""

from __future__ import annotations

import pytest

from lib_addift.jobs.queue import JobState
from lib_addift.training.estimate import passes, passes_after_training
from lib_addift.ui import job_view
from lib_addift.ui.pace import pace
from tests.support.page import Page, queued


def test_the_bar_goes_on_after_the_last_step_and_says_how_long(page: Page) -> None:
    (job,) = queued(page, "a")
    assert pace(job).share == 0
    config = job.request.config
    after = passes_after_training(config) / passes(config)
    assert 0.3 < after < 0.9
    job.state, job.step, job.seconds_left, job.seconds_a_step = JobState.RUNNING, 2, 20.0, 10.0
    half = pace(job)
    assert half.share == pytest.approx((1 - after) / 2)
    whole = 40 * after / (1 - after)  # seconds, as all four steps take 40
    assert half.seconds_left == pytest.approx(20 + whole)
    job.step, job.seconds_left, job.trained_at = 4, None, 1000.0
    assert pace(job, now=1000.0).share == pytest.approx(1 - after)
    later = pace(job, now=1000.0 + whole / 2)
    assert later.share == pytest.approx(1 - after / 2)
    assert later.seconds_left == pytest.approx(whole / 2)
    over = pace(job, now=1000.0 + 3 * whole)
    assert (over.share, over.seconds_left) == (0.98, 0)
    assert job_view.left(job, over) == "nearly done"
    job.state = JobState.DONE
    assert pace(job).share == 1


def test_a_job_that_was_taken_up_again_has_no_time_yet(page: Page) -> None:
    (job,) = queued(page, "a")
    job.state, job.step = JobState.RUNNING, 4
    at = pace(job)
    assert at.seconds_left is None
    assert 0 < at.share < 1
    assert job_view.left(job, at) == ""


def test_the_bar_counts_from_the_real_steps(trained: Page) -> None:
    job = trained.handlers.jobs.latest()
    assert job is not None
    assert job.seconds_a_step is not None
    assert job.seconds_a_step > 0
    assert job.trained_at is not None


def test_a_loss_that_grows_a_hundredfold_gets_a_remark() -> None:
    assert "lower learning rate" in job_view.loss_remark([0.01] * 10 + [2.0] * 10)
    assert job_view.loss_remark([0.01] * 10 + [0.5] * 10) == ""
    assert job_view.loss_remark([0.01, 2.0]) == ""
    assert job_view.loss_remark([0.0] * 20) == ""
    assert job_view.loss_remark([0.01] * 5 + [float("nan")] * 5 + [2.0] * 5) != ""


def test_jobs_are_called_by_name_and_time(page: Page) -> None:
    jobs = queued(page, "a", "b")
    jobs[1].created = jobs[0].created
    labels = job_view.labels([jobs[0], jobs[0], *jobs])
    assert labels[jobs[1].id].startswith("b, ")
    assert labels[jobs[1].id].endswith(", waiting")
    jobs[0].created = 1e9
    assert "2001-09-" in job_view.labels(jobs)[jobs[0].id]


def test_two_jobs_of_one_name_and_second_are_told_apart(page: Page) -> None:
    first, second = queued(page, "a", "b")
    second.name, second.created = first.name, first.created
    labels = job_view.labels([first, second])
    assert labels[second.id] == f"{labels[first.id]} (2)"
    assert page.handlers.panels.job_id(labels[first.id]) == first.id
