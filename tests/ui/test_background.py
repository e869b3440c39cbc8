"""One piece of work at a time, in a thread, with its errors as sentences."""

from __future__ import annotations

import logging
import threading

import pytest
import torch

from lib_addift.errors import OUT_OF_MEMORY, AddiftError, HostError, JobError
from lib_addift.ui.background import BackgroundTask


def finish(task: BackgroundTask, error: Exception | None = None) -> None:
    """Run a piece of work that fails with `error`, or succeeds."""

    def work() -> None:
        if error is not None:
            raise error

    task.start(lambda: work, "working").join(30)


def test_a_second_start_is_refused_and_nothing_is_prepared() -> None:
    task, gate, prepared = BackgroundTask("addift-x"), threading.Event(), []
    thread = task.start(lambda: lambda: gate.wait(30) and None, "measuring")
    with pytest.raises(JobError, match=r"^wait a moment, this is not done yet: measuring\.$"):
        task.start(lambda: prepared.append(1) or (lambda: None), "more")
    assert prepared == []
    assert (task.is_busy, task.text) == (True, "measuring")
    gate.set()
    thread.join(30)
    finish(task)
    assert not task.is_busy


def test_what_prepare_refuses_leaves_the_task_as_it_was() -> None:
    task = BackgroundTask("addift-x")

    def prepare() -> None:
        raise HostError("no model.")

    with pytest.raises(HostError):
        task.start(prepare)  # type: ignore[arg-type]
    assert (task.is_busy, task.error, task.version) == (False, "", 0)


@pytest.mark.parametrize(
    ("error", "sentence", "is_logged"),
    [
        (AddiftError("too wide."), "too wide.", False),
        (MemoryError(), OUT_OF_MEMORY, False),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), OUT_OF_MEMORY, False),
        (KeyError("x"), "unexpected KeyError: 'x'. The console has the details.", True),
    ],
)
def test_an_error_becomes_a_sentence_and_the_next_start_forgets_it(
    caplog: pytest.LogCaptureFixture, error: Exception, sentence: str, is_logged: bool
) -> None:
    task = BackgroundTask("addift-x")
    with caplog.at_level(logging.ERROR):
        finish(task, error)
    assert (task.error, task.text, task.is_busy) == (sentence, "", False)
    assert [record.exc_info is not None for record in caplog.records] == [True] * is_logged
    version = task.version
    finish(task)
    assert (task.error, task.text) == ("", "working")
    assert task.version > version


def test_what_the_work_returns_runs_when_other_work_may_start() -> None:
    task, seen = BackgroundTask("addift-x"), []
    task.start(lambda: lambda: lambda: seen.append(task.is_busy)).join(30)
    assert seen == [False]
