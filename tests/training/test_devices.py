"""Training and drawing on a fake GPU: whatever meets there must be there, and comes out as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT, TASKS
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.jobs.local_runner import room_for
from lib_addift.lora.file import read_lora
from lib_addift.training.events import Request, StepReport
from lib_addift.training.joint import train_runs
from lib_addift.training.run import TrainingRun
from tests.support.fake_host import FakeHost
from tests.support.fake_webui import FakeA1111, inside
from tests.support.training import skip_evaluation

if torch.__version__ < "2.13":
    pytest.skip("the fake GPU is made for the torch of .venv: older ones look for a real one", allow_module_level=True)

from tests.support.fake_gpu import GPU, fake_gpu

SOURCES = tuple(
    PairSource(*(np.asarray(world.draw(face)) for face in TASKS[name].faces(1)), name=name)
    for name in ("eyes", "mouth")
)
SMALL = {"max_train_steps": 2, "sampling_steps": 2, "rank": 2}


def host_on(device: str, folder: Path, precision: str = "fp32") -> StandaloneHost:
    return StandaloneHost(CHECKPOINT, lora_dir=folder, device=device, precision=precision)


def train(host: Any, pairs: int = 1, **settings: Any) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The file's tensors, and what the steps' notes say."""
    config = TrainConfig.create("action", **{**SMALL, **settings})
    training = TrainingRun(host, Request(SOURCES[:pairs], "blink", config), keep_snapshots=False)
    notes = {event.note for event in training.events() if isinstance(event, StepReport)}
    return read_lora(training.results[0].path)[0], notes


# The fake itself


def test_what_is_on_the_fake_gpu_stays_there() -> None:
    with fake_gpu():
        made = torch.randn(3, 4, device=GPU)
        layer = torch.nn.Linear(4, 2).to(GPU)
        loss = layer(made.half().float()).square().sum()
        loss.backward()
        places = [made, loss, layer.weight, layer.weight.grad, torch.zeros_like(made), torch.ones(2).to(made), made[0]]
        assert {each.device for each in places} == {GPU}
        assert made.cpu().device.type == made.to("cpu").device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has cuda")
def test_after_the_fake_gpu_there_is_none() -> None:
    with fake_gpu():
        torch.zeros(1, device="cuda")
    with pytest.raises((AssertionError, RuntimeError), match="not compiled with CUDA|NVIDIA driver|No CUDA GPUs"):
        torch.zeros(1, device="cuda")


def test_the_fake_gpu_refuses_what_a_real_one_refuses() -> None:
    with fake_gpu():
        made = torch.zeros(4, device=GPU)
        with pytest.raises(RuntimeError, match="same device"):
            made + torch.ones(4)
        with pytest.raises(RuntimeError, match="same device"):
            torch.nn.functional.linear(made, torch.ones(4, 4))
        with pytest.raises(RuntimeError, match="same device"):
            torch.ones(4)[torch.tensor([1, 2], device=GPU)]
        assert made[torch.tensor([1, 2])].device == GPU
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, generator=torch.Generator("cpu"), device=GPU)
        with pytest.raises(TypeError, match="cpu"):
            made.numpy()
        made += torch.tensor(2.0)  # a number may come from anywhere
        assert made.tolist() == [2.0] * 4


# The product on it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "pairs", "settings"),
    [
        pytest.param("fp32", 1, {"dora": True, "dropout": 0.2, "lora_plus_ratio": 4.0}, marks=pytest.mark.long),
        pytest.param(
            "fp16",
            2,
            {"batch_size": 2, "mirror": "on", "self_regularisation": 0.5, "train_text_encoder": True},
            marks=pytest.mark.long,
        ),
        pytest.param("bf16", 1, {"method": "slider", "algorithm": "loha", "mask": "off"}, marks=pytest.mark.long),
    ],
)
def test_training_on_a_gpu_gives_the_same_lora(
    tmp_path: Path, precision: str, pairs: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_evaluation(monkeypatch)  # A1111's small model, below, is quicker with them
    on_cpu, _ = train(host_on("cpu", tmp_path / "cpu", precision), pairs, **settings)
    with fake_gpu():
        on_gpu, notes = train(host_on("cuda:0", tmp_path / "gpu", precision), pairs, **settings)
    assert notes == {""}, "there was memory enough"
    assert on_gpu.keys() == on_cpu.keys()
    assert all(torch.equal(on_gpu[name], on_cpu[name]) for name in on_cpu)


@pytest.mark.long
@pytest.mark.slow
def test_on_a_small_gpu_less_memory_is_used_from_the_first_step_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_evaluation(monkeypatch)
    settings = {"batch_size": 2, "precision": "fp32", "max_train_steps": 1}
    on_cpu, _ = train(host_on("cpu", tmp_path / "cpu"), **settings)
    with fake_gpu(free=405 * 2**20):
        on_gpu, notes = train(host_on("cuda:0", tmp_path / "gpu"), **settings)
    (note,) = notes
    assert note.startswith("memory is short: from now on samples go through the model 1 at a time and its blocks are")
    for name in on_cpu:
        torch.testing.assert_close(on_gpu[name], on_cpu[name], rtol=0.01, atol=1e-3)


@pytest.mark.long
@pytest.mark.slow
def test_two_loras_learn_at_once_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_evaluation(monkeypatch)

    def both(host: StandaloneHost) -> list[dict[str, torch.Tensor]]:
        runs = [
            TrainingRun(host, Request((s,), s.name, TrainConfig.create("action", **SMALL)), keep_snapshots=False)
            for s in SOURCES
        ]
        assert not [said for _, said in train_runs(runs) if isinstance(said, Exception)]
        return [read_lora(run.results[0].path)[0] for run in runs]

    on_cpu = both(host_on("cpu", tmp_path / "cpu"))
    with fake_gpu():
        on_gpu = both(host_on("cuda:0", tmp_path / "gpu"))
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("free", "blocks", "count"), [(10, ("OUT",), 6), (10, ("MID", "OUT"), 4), (1, ("OUT",), 1), (140, ("OUT",), 16)]
)
def test_as_many_at_once_as_the_gpu_has_room_for(
    free: int, blocks: tuple[str, ...], count: int, tmp_path: Path
) -> None:
    pictures = [np.zeros((512, 512, 3), np.uint8), np.full((512, 512, 3), 9, np.uint8)]
    request = Request((PairSource(*pictures, name="pair"),), "pair", TrainConfig.create("action", blocks=blocks))
    run = TrainingRun(FakeHost(tmp_path), request, keep_snapshots=False)
    with fake_gpu(free=free * 2**30):
        assert room_for(run) == count


@pytest.mark.long
@pytest.mark.slow
def test_pictures_are_drawn_on_a_gpu_as_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_evaluation(monkeypatch)
    train(host_on("cpu", tmp_path))
    prompts = ("a face <lora:blink:1>", "a face <lora:blink:1:from=900:to=300> <lora:blink:1:compose=composite>")
    size: dict[str, Any] = {"steps": 2, "width": 64, "height": 64}
    on_cpu = [host_on("cpu", tmp_path).draw(prompt, **size) for prompt in prompts]
    with fake_gpu():
        on_gpu = [host_on("cuda:0", tmp_path).draw(prompt, **size) for prompt in prompts]
    assert np.array_equal(on_gpu, on_cpu)


@pytest.mark.slow
def test_a1111s_model_is_trained_on_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    webui = FakeA1111(tmp_path / "cpu")
    with inside(webui, monkeypatch) as host:
        on_cpu, _ = train(host)
    with fake_gpu():
        webui = FakeA1111(tmp_path / "gpu")
        with inside(webui, monkeypatch) as host:
            webui.model.to(GPU)
            webui.devices.device = GPU
            on_gpu, _ = train(host)
    assert all(torch.equal(on_gpu[name], on_cpu[name]) for name in on_cpu)
