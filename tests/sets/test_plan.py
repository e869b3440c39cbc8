"""The plan of a folder of sets: requests, problems and estimated times, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_addift.demo.world import Face, draw
from lib_addift.sets.plan import plan_batch
from tests.support.fake_host import FakeHost


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Two sets of one size, and one whose target is broken."""
    for name in ("eyes", "more eyes", "broken"):
        folder = tmp_path / "sets" / name
        folder.mkdir(parents=True)
        draw(Face()).save(folder / "a.png")
        draw(Face(eyes="closed")).save(folder / "a_closed.png")
    (tmp_path / "sets" / "broken" / "a_closed.png").write_bytes(b"no picture")
    return tmp_path / "sets"


def test_a_set_has_a_request_or_a_problem(sets: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path / "Lora")
    broken, eyes, more = plan_batch(sets, {"rank": 2}, host, estimate=False)
    assert broken.request is None
    assert "is not a picture" in broken.problem
    assert [each.request.name for each in (eyes, more) if each.request] == ["eyes", "more eyes"]
    assert eyes.request is not None
    assert eyes.request.config.rank == 2
    assert [check.size for check in eyes.checks] == [(64, 64)]
    assert host.calls == 0
    assert {each.seconds for each in (broken, eyes, more)} == {None}


def test_a_taken_name_is_a_problem_unless_overwriting(sets: Path, tmp_path: Path) -> None:
    host = FakeHost(tmp_path / "Lora")
    host.lora_dir.mkdir()
    (host.lora_dir / "eyes.safetensors").write_bytes(b"precious")
    _, eyes, more = plan_batch(sets, {}, host, estimate=False)
    assert "already has 'eyes.safetensors'" in eyes.problem
    assert eyes.request is None
    assert more.problem == ""
    _, eyes, _ = plan_batch(sets, {}, host, overwrite=True, estimate=False)
    assert (eyes.problem, eyes.request is not None) == ("", True)


def test_each_size_is_timed_once_and_more_steps_take_longer(sets: Path, tmp_path: Path) -> None:
    (sets / "more eyes" / "addift.toml").write_text("max_train_steps = 600", encoding="utf-8")
    host = FakeHost(tmp_path / "Lora")
    broken, eyes, more = plan_batch(sets, {}, host)
    assert broken.seconds is None
    assert eyes.seconds is not None
    assert more.seconds is not None
    assert 0 < eyes.seconds < more.seconds
    assert host.calls == 2, "once to warm up, once timed"
