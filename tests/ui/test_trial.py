"""The test in txt2img."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from lib_addift.errors import JobError
from lib_addift.ui.trial import Trial, TrialRequest
from tests.support.fake_host import FakeHost


def test_the_test_writes_tags_as_prompts_hold_them() -> None:
    prompts: list[str] = []

    class Host(FakeHost):
        def draw(self, prompt: str, **settings: Any) -> np.ndarray:
            prompts.append(prompt)
            return super().draw(prompt, width=64, height=64)

    trial = Trial(Host())
    trial.start(TrialRequest("eyes", "a face")).join(30)
    weights = ["-1", "-0.5", "0", "0.5", "1", "1.5"]
    assert prompts == ["a face" + (f" <lora:eyes:{w}>" if w != "0" else "") for w in weights]


def test_one_test_at_a_time_and_its_failure_is_a_sentence() -> None:
    gate = threading.Event()

    class Host(FakeHost):
        def draw(self, prompt: str, **_settings: Any) -> np.ndarray:
            gate.wait(30)
            raise RuntimeError("no memory")

    trial = Trial(Host())
    thread = trial.start(TrialRequest("eyes", ""))
    with pytest.raises(JobError, match="already"):
        trial.start(TrialRequest("eyes", ""))
    gate.set()
    thread.join(30)
    assert trial.task.error == "unexpected RuntimeError: no memory. The console has the details."
    assert not trial.task.is_busy
