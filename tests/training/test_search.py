"""Recipe search: which recipe is kept, what is said and written, and what happens when it is stopped or interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lib_addift.training.search
from lib_addift.config.recipes import recipes
from lib_addift.config.settings import TrainConfig
from lib_addift.data.pairs import PairSource
from lib_addift.diffusion.conditions import Conditions
from lib_addift.errors import ConfigError, TrainingError
from lib_addift.evaluation.new_pictures import NewPictures
from lib_addift.evaluation.round_trip import RoundTrip
from lib_addift.evaluation.weight import Choice
from lib_addift.jobs.resume_file import read_resume_state, resume_bytes
from lib_addift.lora.file import read_lora
from lib_addift.training.dataset import steps_of
from lib_addift.training.estimate import passes
from lib_addift.training.events import Event, Request, ResumeState, Stage
from lib_addift.training.finish import Measured
from lib_addift.training.methods import make_config
from lib_addift.training.run import TrainingRun
from lib_addift.training.search import SearchRun, new_run, rank
from lib_addift.training.state import StepReport
from tests.support.fake_host import FakeHost
from tests.support.models import fingerprint
from tests.support.runs import files
from tests.support.training import skip_evaluation, source

NAMES = list(recipes(make_config(search=True)))
QUICK = {"max_train_steps": 2, "sampling_steps": 2, "search": True, "batch_size": 1, "new_pictures": 4}


def start(host: FakeHost, *, pairs: int = 1, state: ResumeState | None = None, **settings: Any) -> TrainingRun:
    config = make_config(**{**QUICK, **settings})
    request = Request(tuple(source(number) for number in range(pairs)), "blink", config)
    return new_run(host, request, keep_snapshots=True, resume_state=state)


def prefer(monkeypatch: pytest.MonkeyPatch, order: list[str]) -> None:
    """New pictures say that the recipes are good in this order; they are measured in that of NAMES."""
    places = iter(NAMES)
    skip_evaluation(monkeypatch)

    def measured(*_: Any, **__: Any) -> tuple[Choice, None]:
        spreads = (1.0,) * order.index(next(places)) + (0.0,) * 8
        return Choice(1.5, True, NewPictures(1.5, (1.0,) * 8, spreads[:8], (1.0,) * 8, (0.0,) * 8)), None

    monkeypatch.setattr(lib_addift.training.finish, "_choose", measured)


def config_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_lora(path)[1]["addift.config"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("best", NAMES)
def test_the_best_is_saved_as_if_its_recipe_had_been_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    prefer(monkeypatch, [best, *(name for name in NAMES if name != best)])
    host = FakeHost(tmp_path / "search")
    before = fingerprint(host.unet)
    run = start(host, save_precision="fp32")
    list(run.events())
    assert fingerprint(host.unet) == before
    assert not any(module._forward_hooks for module in host.unet.modules())
    assert files(host.lora_dir) == ["blink.json", "blink.png", "blink.safetensors"]
    (result,) = run.results
    recipe = recipes(run.config)[best]
    assert config_in(result.path) == recipe.to_dict()
    tensors, metadata = read_lora(result.path)
    table = json.loads(metadata["addift.report"])["search"]
    assert (table["chosen"], list(table["recipes"])) == (best, sorted(NAMES))
    assert [table["recipes"][best][name] for name in ("reach", "spread", "of")] == [8, 0, 8]
    assert result.verdict.endswith(f"The best of 5 recipes: {best}.")
    skip_evaluation(monkeypatch)
    monkeypatch.setattr(lib_addift.training.finish, "_choose", lambda *_, **__: (Choice(1.5, True), None))
    alone = TrainingRun(FakeHost(tmp_path / "alone"), Request((source(0),), "blink", recipe))
    list(alone.events())
    assert (alone.steps_done, alone.results[0].weight) == (result.steps, result.weight)
    for key, tensor in read_lora(alone.results[0].path)[0].items():
        torch.testing.assert_close(tensors[key], tensor, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_what_is_said_on_the_way(tmp_path: Path) -> None:
    events = list(start(FakeHost(tmp_path), pairs=2).events())
    texts = [event.text for event in events if isinstance(event, Stage)]
    assert texts[0].startswith("trying 5 recipes side by side: about")
    assert texts[1:3] == ["encoding the pictures"] * 2, "once for all recipes"
    assert texts[3:-2] == [
        f"evaluating it: {part}; recipe {number} of 5: {name}"
        for number, name in enumerate(NAMES, start=1)
        for part in ("the round trip", "new pictures")
    ]
    assert texts[-2:] == ["drawing the preview", "saving"]
    reports = [event for event in events if isinstance(event, StepReport)]
    total = steps_of(make_config(**QUICK), [PairSource(Path("a"), Path("b"))])
    assert [(report.step, report.total) for report in reports] == [(step + 1, total) for step in range(total)]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"reach": 6}, {"reach": 5}),
        ({"reach": 6, "spread": 3}, {"reach": 8, "spread": 4}),  # more than enough is no better than enough
        ({"reach": 6, "spread": 8}, {"reach": 5, "spread": 0}),
        ({"reach": 3, "enough": 0.375}, {"reach": 5}),
        ({"spread": 1, "recovery": 0.4}, {"spread": 2, "recovery": 0.9}),
        ({"recovery": 0.6}, {"recovery": 0.5}),
    ],
)
def test_the_better_recipe(better: dict[str, float], worse: dict[str, float]) -> None:
    def measured(reach: int = 6, spread: int = 0, enough: float = 0.75, recovery: float = 0.5) -> Measured:
        sizes, spreads = (1.0,) * reach + (0.0,) * (8 - reach), (1.0,) * spread + (0.0,) * (8 - spread)
        new = NewPictures(1.0, sizes, spreads, (1.0,) * 8, (0.0,) * 8, enough=enough)
        return Measured(RoundTrip(recovery, 1.0, ((1.0, recovery),)), Choice(1.0, True, new))

    assert rank(measured(**better)) > rank(measured(**worse))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3])
def test_one_that_goes_on_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Also from a step at which some recipes are done and others are not."""
    monkeypatch.setattr(lib_addift.training.run, "_RESUME_STATE_EVERY", 1)
    whole = start(FakeHost(tmp_path / "whole"))
    states = [event for event in whole.events() if isinstance(event, ResumeState)]
    total = steps_of(whole.config, whole.request.pairs)
    assert [state.step for state in states] == list(range(1, total + 1))
    state = read_resume_state(resume_bytes(states[step - 1]))
    again = start(FakeHost(tmp_path / "again"), state=state)
    steps = [event.step for event in again.events() if isinstance(event, StepReport)]
    assert steps == list(range(step + 1, total + 1))
    assert again.results[0].path.read_bytes() == whole.results[0].path.read_bytes()


def stopped_at(run: TrainingRun, text: str) -> list[Event]:
    """The events after that one."""
    after: list[Event] = []
    for event in run.events():
        if run.is_stopped:
            after.append(event)
        elif text in (f"step {event.step}" if isinstance(event, StepReport) else getattr(event, "text", "")):
            run.stop()
    return after


@pytest.mark.parametrize("text", ["trying", "encoding", "step 1", "step 3", "recipe 2 of 5", "drawing"])
def test_a_stopped_search_saves_nothing(tmp_path: Path, text: str) -> None:
    host = FakeHost(tmp_path)
    before = fingerprint(host.unet)
    run = start(host)
    after = stopped_at(run, text)
    assert run.is_stopped
    assert not any(isinstance(event, StepReport) for event in after)
    assert len(after) <= 1, "what was begun is ended, and nothing else is begun"
    assert (files(tmp_path), run.results) == ([], [])
    assert fingerprint(host.unet) == before
    assert not any(module._forward_hooks for module in host.unet.modules())


@pytest.mark.parametrize(("text", "steps"), [("step 1", 1), ("step 3", 2), ("recipe 3 of 5", 2)])
def test_what_the_settings_themselves_have_learnt_can_be_kept(tmp_path: Path, text: str, steps: int) -> None:
    run = start(FakeHost(tmp_path / "stopped"), save_precision="fp32")
    stopped_at(run, text)
    list(run.keep())
    kept = run.results[0].path
    assert kept.name == f"blink-step{steps}.safetensors"
    plain = start(FakeHost(tmp_path / "plain"), search=False, save_precision="fp32")
    stopped_at(plain, f"step {steps}")
    for key, tensor in plain.learnt.items():
        torch.testing.assert_close(run.learnt[key], tensor, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_a_recipe_that_fails_is_left_out_and_the_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, NAMES[:1])
    run = start(FakeHost(tmp_path))
    list(run.events())
    table = run.results[0].search
    assert table["recipes"][NAMES[0]] == {"error": "it diverged."}
    assert table["chosen"] in NAMES[1:]
    assert set(json.loads(read_lora(run.results[0].path)[1]["addift.report"])["search"]["recipes"]) == set(NAMES)


def test_where_all_recipes_fail_the_search_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, NAMES)
    run = start(FakeHost(tmp_path))
    with pytest.raises(TrainingError, match="it diverged"):
        list(run.events())
    assert files(tmp_path) == []


def fail(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """These recipes cannot be measured."""
    configs = [recipes(make_config(**QUICK))[name].learning_rate for name in names]
    measure = lib_addift.training.search.measure
    left = list(names)

    def failing(model: Any, network: Any, dataset: Any, config: TrainConfig, budget: float) -> Any:
        if left and config.learning_rate in configs:
            left.pop(0)
            raise TrainingError("it diverged.")
        return (yield from measure(model, network, dataset, config, budget))

    monkeypatch.setattr(lib_addift.training.search, "measure", failing)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "slider"}, "method = slider"),
        ({"method": "copier"}, "method = copier"),
        ({"train_text_encoder": True}, "train_text_encoder to false"),
        ({"new_pictures": 0}, "set new_pictures"),
        ({"save_every": 5}, "save_every = 5"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_config(search=True, **settings)
    assert str(caught.value).startswith("search = true")
    assert str(caught.value).count(".") == 1


@pytest.mark.slow
def test_the_passes_counted_are_those_that_a_search_takes(tmp_path: Path) -> None:
    """At most a third too many: recipes with the same samples share the frozen model's predictions."""
    samples = 0

    class CountingHost(FakeHost):
        def predict_noise(self, latents: torch.Tensor, timesteps: torch.Tensor, cond: Conditions) -> torch.Tensor:
            nonlocal samples
            samples += len(latents) * (2 if torch.is_grad_enabled() else 1)
            return super().predict_noise(latents, timesteps, cond)

    settings = {"max_train_steps": 30, "batch_size": 4}
    run = start(CountingHost(tmp_path), **settings)
    list(run.events())
    assert isinstance(run, SearchRun)
    counted, alone = passes(run.config), passes(replace(run.config, search=False))
    assert samples <= 1.1 * counted <= 1.5 * samples
    assert counted > 3 * alone
