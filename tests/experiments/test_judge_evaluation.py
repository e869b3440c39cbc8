"""The judgement of the evaluation: one short run, and the summary."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lib_addift.demo.run import CHECKPOINT
from lib_addift.evaluation.verdict import Level
from lib_addift.experiments import judge_evaluation
from lib_addift.experiments.judge_evaluation import DIFFERENCES, Judged, judge, summary
from lib_addift.hosts.standalone import StandaloneHost


@pytest.mark.long
@pytest.mark.slow
def test_a_lora_is_trained_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_evaluation, "FACES", 2)
    host = StandaloneHost(CHECKPOINT, lora_dir=tmp_path, device="cpu")
    judged = judge(host, DIFFERENCES[0], 1, max_train_steps=2, sampling_steps=2)
    assert judged.result.new_pictures.count == 4
    assert judged.hits in (0.0, 0.5, 1.0)
    assert judged.flips in (0.0, 0.5, 1.0)


def test_the_summary_counts_both_kinds_of_error() -> None:
    said = [(Level.GOOD, 0.95), (Level.GOOD, 0.7), (Level.WEAK, 1.0), (Level.WEAK, 0.5), (Level.GOOD, 0.85)]
    judged = [Judged(SimpleNamespace(level=level), hits, 0.0) for level, hits in said]  # type: ignore[arg-type]
    assert "1 of 3 that were said to be good" in summary(judged)
    assert "1 of 2 with 90% hits" in summary(judged)
