"""What the encoder made of a picture for the reference is used again in the step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lib_addift.config.settings import BLOCKS, TrainConfig
from lib_addift.demo import world
from lib_addift.demo.run import CHECKPOINT
from lib_addift.hosts.standalone import StandaloneHost
from lib_addift.training.encoder_cache import encoder_parts, recording, replaying
from lib_addift.training.events import Request
from lib_addift.training.loop import train_one
from lib_addift.training.plan import make_plan
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport, TrainState
from lib_addift.training.targets import TeacherPredictions
from tests.support.fake_host import FakeHost
from tests.support.fake_unet import CONTEXT, UNetModel
from tests.support.training import pair_of

ORIGINAL, TARGET = (np.asarray(world.draw(world.Face(eyes=eyes))) for eyes in ("open", "closed"))
LATENTS, TIMESTEPS, COND = torch.randn(3, 4, 8, 8), torch.tensor([900, 500, 20]), torch.randn(3, 5, CONTEXT)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> StandaloneHost:
    return StandaloneHost(CHECKPOINT, lora_dir=tmp_path_factory.mktemp("Lora"), device="cpu")


def train(host: StandaloneHost, **settings: object) -> tuple[list[float], int]:
    """The loss of each step, and how many passes went through the encoder before the round trip."""
    config = TrainConfig.create("action", **{"max_train_steps": 6, "sampling_steps": 1, **settings})
    run = TrainingRun(host, Request.of(ORIGINAL, TARGET, "blink", config, overwrite=True))
    calls = 0

    def count(*_ignored: object) -> None:
        nonlocal calls
        calls += 1

    counted = host.unet.get_submodule("mid_block.resnets.0").register_forward_hook(count)
    losses = []
    for event in run.events():
        if isinstance(event, StepReport):
            losses.append(event.loss)
        if len(losses) == config.max_train_steps:
            counted.remove()
    return losses, calls


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"directions": "both"}, pytest.param({"directions": "alternate", "batch_size": 2}, marks=pytest.mark.long)],
)
def test_steps_begin_at_the_first_output_block(host: StandaloneHost, settings: dict[str, object]) -> None:
    shared, calls = train(host, blocks=("OUT",), **settings)
    assert calls == 1, "the references of all steps, in one batch"
    assert shared == pytest.approx(train_alone(host, blocks=("OUT",), **settings), rel=1e-4)


def train_alone(host: StandaloneHost, **settings: object) -> list[float]:
    """The losses where the encoder runs in every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib_addift.training.run.leave_encoder_alone", lambda _networks: False)
        losses, calls = train(host, **settings)
    assert calls == 1 + len(losses)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"blocks": ("MID", "OUT")},
        pytest.param({"blocks": BLOCKS}, marks=pytest.mark.long),
        pytest.param({"blocks": ("OUT",), "directions": "forward"}, marks=pytest.mark.long),
    ],
)
def test_the_encoder_runs_where_the_lora_changes_it_or_nobody_has_seen_the_picture(
    host: StandaloneHost, settings: dict[str, object]
) -> None:
    assert train(host, **settings)[1] == 1 + 6


@pytest.mark.slow
def test_a_text_model_that_learns_changes_the_encoder_too(host: StandaloneHost) -> None:
    assert train(host, blocks=("OUT",), train_text_encoder=True, prompt="a face")[1] == 1 + 6


@torch.no_grad()
def test_features_are_those_of_each_sample_and_the_blocks_are_as_before() -> None:
    torch.manual_seed(0)
    unet = UNetModel()
    expected = unet(LATENTS, TIMESTEPS, COND)
    parts = encoder_parts(unet)
    with recording(parts) as samples:
        unet(LATENTS, TIMESTEPS, COND)
    assert (len(samples), len(samples[0])) == (3, 3)
    runs = [part.runs for part in parts]  # type: ignore[attr-defined]
    with replaying(unet, [samples[2], samples[0]]):
        chosen = [2, 0]
        assert torch.allclose(unet(LATENTS[chosen], TIMESTEPS[chosen], COND[chosen]), expected[chosen], atol=1e-6)
        assert [part.runs for part in parts] == runs  # type: ignore[attr-defined]
        assert torch.allclose(unet(LATENTS, TIMESTEPS, COND), expected), "another batch is computed"
    with replaying(unet, [samples[0], None, samples[2]]):
        assert torch.allclose(unet(LATENTS, TIMESTEPS, COND), expected), "a sample without features is computed"
    assert not any("forward" in vars(part) or part._forward_hooks for part in parts)


def test_a_host_that_goes_around_its_blocks_gives_no_features() -> None:
    unet = UNetModel()
    with recording(encoder_parts(unet)) as samples:
        for part in encoder_parts(unet)[:-1]:
            part(torch.randn(1, 4 if part is encoder_parts(unet)[0] else 8, 8, 8), torch.randn(1, 8), COND[:1])
    assert samples == []


@pytest.mark.slow
def test_only_two_windows_are_known_at_a_time(host: StandaloneHost, tmp_path: Path) -> None:
    config = TrainConfig.create("action", max_train_steps=40, directions="alternate")
    plan = make_plan(config)
    teacher = TeacherPredictions(host, [pair_of(host, config, 1)], plan, 3, shares_encoder=True)  # type: ignore[arg-type]
    for samples in plan:
        teacher.prefetch(samples)
        assert sum(sample in window for sample in samples for window in teacher._known.values()) == 1
        assert len(teacher._known) <= 2
        assert all(teacher.student_features(sample) is not None for sample in plan[0] if samples is plan[1])
    with pytest.raises(KeyError):
        teacher[plan[0][0]]


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "step"), [(6, 3), (16, 1)])  # a border of windows lies between two steps
def test_a_run_that_goes_on_uses_the_same_features(host: StandaloneHost, batch_size: int, step: int) -> None:
    """A step that goes back may use what the step before it saw, whose window a resumed run has not asked for."""
    config = TrainConfig.create("action", max_train_steps=step + 1, directions="alternate", batch_size=batch_size)
    run = TrainingRun(host, Request.of(ORIGINAL, TARGET, "blink", config, overwrite=True), keep_snapshots=True)
    with run.exclusive():
        list(run.prepare())
        kept = [run.state.state_dict() for _ in features_of_steps(host, run.state)][step - 1]
        expected = run.state.network.tensors()
        list(run.prepare())
        run.state.load_state_dict(kept)
        assert all(map(all, features_of_steps(host, run.state))), "each sample had features, as in the whole run"
    for key, tensor in run.state.network.tensors().items():
        assert torch.equal(tensor, expected[key]), key


def features_of_steps(host: StandaloneHost, state: TrainState) -> Iterator[list[bool]]:
    """Train to the end; for each step, which of its samples had features."""
    steps = train_one(host, state)
    while state.is_active:
        samples = state.samples
        next(steps)
        yield [state.teacher.student_features(sample) is not None for sample in samples]


def test_features_are_not_kept_where_a_step_needs_many_windows() -> None:
    host, config = FakeHost(), TrainConfig.create("action", max_train_steps=2, batch_size=3)
    plan, pairs = make_plan(config), [pair_of(host, config, 1)]
    host.unet.input_blocks, host.unet.middle_block = torch.nn.ModuleList([torch.nn.Identity()]), torch.nn.Identity()
    recorded = {
        size: bool(TeacherPredictions(host, pairs, plan, size, shares_encoder=True)._recorded) for size in (2, 3, 6)
    }
    assert recorded == {2: False, 3: True, 6: True}
