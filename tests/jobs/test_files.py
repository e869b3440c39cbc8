"""The files of one job in the store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource, load_pair
from lib_addift.demo import world
from lib_addift.errors import JobError
from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.jobs.files import JobFiles, KeptResult, without_shared_mask
from lib_addift.training.events import Request, Result, ResumeState, Snapshot

ORIGINAL, TARGET = (world.draw(world.Face(eyes=eyes)) for eyes in ("open", "closed"))


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    return JobFiles(tmp_path / "0123abcd")


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "path", "array"])
def test_pictures_are_kept_without_loss(files: JobFiles, tmp_path: Path, kind: str) -> None:
    config = TrainConfig()
    original, target = (picture.convert("RGB" if kind in ("path", "array") else kind) for picture in (ORIGINAL, TARGET))
    if kind == "RGBA":
        target.putalpha(Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))))
        config = TrainConfig.create("action", mask="alpha")
    sources = {
        "path": [tmp_path / "original.webp", tmp_path / "target.webp"],
        "array": [np.asarray(original), np.asarray(target)],
    }.get(kind, [original, target])
    if kind == "path":
        original.save(sources[0], quality=50)
        target.save(sources[1], quality=50)
    request = Request.of(sources[0], sources[1], "blink", config, overwrite=True)
    restored = files.request(files.put_request(request))
    assert (restored.name, restored.config, restored.overwrite) == ("blink", config, True)
    (pair,) = restored.pairs
    before, after = (load_pair(each[0], each[1], config) for each in (sources, (pair.original, pair.target)))
    for part in ("original", "target", "mask"):
        one, other = getattr(before, part), getattr(after, part)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    assert files.thumbnail is not None
    assert files.thumbnail.size == (192, 96)


def test_what_is_particular_to_a_pair_is_kept(files: JobFiles) -> None:
    mask = Image.new("L", (64, 64), 200)
    first = PairSource(ORIGINAL, TARGET, "one", "open eyes", "closed eyes", 2.5, mask)
    second = PairSource(TARGET, ORIGINAL, "two")
    request = Request((first, second), "blink", TrainConfig.create("action", rank=8, layers=("convolutions",)))
    restored = files.request(files.put_request(request))
    plain = [replace(pair, original=ORIGINAL, target=TARGET, mask=None) for pair in restored.pairs]
    assert plain == [replace(first, mask=None), replace(second, original=ORIGINAL, target=TARGET)]
    assert restored.config == request.config
    one, other = restored.pairs
    assert load_pair(one.original, one.target, request.config, one.mask).mask == pytest.approx(200 / 255)
    assert other.mask is None
    assert Image.open(other.original).tobytes() == TARGET.tobytes()  # type: ignore[arg-type]


def test_the_settings_mask_file_is_copied_too(files: JobFiles, tmp_path: Path) -> None:
    Image.new("L", (64, 64), 99).save(tmp_path / "mask.png")
    config = TrainConfig.create("action", mask="file", mask_file=str(tmp_path / "mask.png"))
    restored = files.request(files.put_request(Request.of(ORIGINAL, TARGET, "blink", config)))
    (tmp_path / "mask.png").unlink()
    (pair,) = restored.pairs
    assert load_pair(pair.original, pair.target, config, pair.mask).mask == pytest.approx(99 / 255)
    assert restored.config.mask_file == str(tmp_path / "mask.png"), "the file's metadata say what was asked for"
    assert without_shared_mask(restored).pairs[0].mask is None


def test_a_kept_step_is_what_it_was(files: JobFiles) -> None:
    tensors = {"a.alpha": torch.tensor(4.0), "a.lora_up.weight": torch.randn(3, 2).T}
    kept = files.put_snapshot(Snapshot(7, tensors, ORIGINAL))
    assert kept.step == 7
    assert kept.strip.tobytes() == ORIGINAL.tobytes()
    assert set(kept.tensors) == set(tensors)
    assert all(torch.equal(kept.tensors[key], tensor) for key, tensor in tensors.items())
    (files.folder / "step7.safetensors").write_bytes(b"half")
    with pytest.raises(JobError, match="the kept step .* cannot be read"):
        _ = kept.tensors


def test_a_result_is_what_it_was(files: JobFiles, tmp_path: Path) -> None:
    trip = RoundTrip(0.5, -1.25, ((-1.25, 0.5), (1.0, float("-inf"))))
    result = Result(tmp_path / "blink.safetensors", 50, 1.5, trip, -1.25, 0.25, strip=ORIGINAL, pictures=TARGET)
    kept = files.put_result(result)
    assert (kept.path, kept.steps, kept.train_seconds, kept.round_trip, kept.weight, kept.held_out) == (
        result.path, 50, 1.5, trip, -1.25, 0.25,
    )  # fmt: skip
    assert (kept.verdict, kept.tag) == (result.verdict, result.tag)
    assert (kept.strip.tobytes(), kept.pictures.tobytes()) == (ORIGINAL.tobytes(), TARGET.tobytes())
    assert (kept.new_pictures.count, kept.grid) == (0, None)
    (files.folder / "result-blink.png").unlink()
    with pytest.raises(JobError, match="cannot be read"):
        _ = kept.strip


def test_a_result_with_new_pictures_is_what_it_was(files: JobFiles, tmp_path: Path) -> None:
    new = NewPictures(1.5, (1.0, 0.1), (0.0, 2.5), (0.9, -0.2), (0.1, 0.7), 0.5, 1.25)
    result = Result(
        tmp_path / "blink.safetensors", 50, 1.5, RoundTrip(0.5, 1.5, ((1.5, 0.5),)), 1.5, new_pictures=new,
        strip=ORIGINAL, pictures=TARGET, grid=TARGET,
    )  # fmt: skip
    values = json.loads(json.dumps(files.put_result(result).values()))
    kept = KeptResult.from_values(files.folder, values)
    assert kept.new_pictures == new
    assert (kept.verdict, kept.level) == (result.verdict, result.level)
    assert kept.grid is not None
    assert kept.grid.tobytes() == TARGET.tobytes()


def test_a_result_of_before_there_were_new_pictures_is_read(files: JobFiles, tmp_path: Path) -> None:
    trip = RoundTrip(0.5, 1.5, ((1.5, 0.5),))
    result = Result(tmp_path / "blink.safetensors", 50, 1.5, trip, 1.5, strip=ORIGINAL, pictures=TARGET)
    values = files.put_result(result).values()
    del values["new_pictures"]
    kept = KeptResult.from_values(files.folder, values)
    assert (kept.new_pictures.count, kept.grid, kept.verdict) == (0, None, trip.verdict)


def test_a_checkpoint_is_what_it_was(files: JobFiles) -> None:
    assert (files.resume_state(), files.has_resume_state) == (None, False)
    state = {"step": 3, "parameters": [torch.randn(2)], "optimizer": {"state": {0: {"step": 1.0}}}, "rng": None}
    for step in (2, 3):
        files.put_resume_state(ResumeState(step, 0.5, state))
    kept = files.resume_state()
    assert kept is not None
    assert (kept.step, kept.train_seconds, kept.state["optimizer"]) == (3, 0.5, state["optimizer"])
    assert torch.equal(kept.state["parameters"][0], state["parameters"][0])  # type: ignore[index]
    data = (files.folder / "checkpoint.safetensors").read_bytes()
    for broken in (b"", data[: len(data) // 2], b"x" * 100):
        (files.folder / "checkpoint.safetensors").write_bytes(broken)
        with pytest.raises(JobError, match="retry the job from the start"):
            files.resume_state()


def test_files_are_forgotten_by_kind(files: JobFiles) -> None:
    files.put_request(Request.of(ORIGINAL, TARGET, "blink", TrainConfig()))
    files.put_snapshot(Snapshot(1, {"a": torch.zeros(1)}, ORIGINAL))
    files.put_resume_state(ResumeState(1, 0.0, {}))
    size = files.kept_bytes()
    files.forget(steps=False)
    assert not files.has_resume_state
    assert 0 < files.kept_bytes() < size
    files.forget()
    assert files.kept_bytes() == 0
    assert sorted(file.name for file in files.folder.iterdir()) == ["original0.png", "target0.png", "thumbnail.png"]


def test_a_disk_that_is_full_is_told_in_a_sentence(files: JobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("lib_addift.files._write", write)
    with pytest.raises(JobError, match="cannot be written .No space left on device.: make room"):
        files.put_resume_state(ResumeState(1, 0.0, {}))
