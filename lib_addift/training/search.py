"""Recipe search: several ways to learn from the same pictures, side by side; the best on new pictures is saved.

No default that was chosen on a small model can be shown to be right for every checkpoint, so the choice is made on the
checkpoint and the pictures of the person. What it costs, and how often it chooses right: docs/search.md.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from lib_addift.config.recipes import recipes
from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.latents import LatentPair
from lib_addift.errors import AddiftError
from lib_addift.training.dataset import Dataset, steps_of
from lib_addift.training.estimate import about, passes, seconds_a_pass
from lib_addift.training.events import Events, Request, ResumeState, Stage
from lib_addift.training.finish import Measured, measure, picture_budget
from lib_addift.training.joint import train_runs
from lib_addift.training.networks import load_lora
from lib_addift.training.plan import Plan
from lib_addift.training.run import TrainingRun
from lib_addift.training.state import StepReport
from lib_addift.training.targets import TeacherPredictions

T = TypeVar("T")


def new_run(host: Host, request: Request, **options: Any) -> TrainingRun:
    """The run that does a request: a search where its settings ask for one. `options` are those of TrainingRun."""
    kind = SearchRun if request.config.search else TrainingRun
    return kind(host, request, **options)


def rank(measured: Measured) -> tuple[float, ...]:
    """What is greater for the better recipe: by enough new pictures reached, then by less spread, then by recovery."""
    new = measured.choice.new
    return min(1.0, new.reach / (new.enough * new.count)), -new.spread, measured.trip.recovery


class SearchRun(TrainingRun):
    """Trains the recipes of its settings in one pass, measures each, and saves the best under the asked name.

    A recipe that fails is left out. Resume states hold all that have not failed; a run that goes on after the last step
    measures them anew. Stopped before it has chosen, `keep` saves what the first recipe, the settings as they are, has
    learnt.
    """

    candidates: tuple[Candidate, ...] = ()

    def __init__(self, host: Host, request: Request, **options: Any) -> None:
        self.teachers: dict[tuple[Plan, bool], TeacherPredictions] = {}
        super().__init__(host, request, **options)

    def stop(self) -> None:
        """See TrainingRun."""
        super().stop()
        for candidate in self.candidates:
            candidate.stop()

    def events(self) -> Events:
        """See TrainingRun."""
        self.candidates = tuple(self._new_candidates())
        if self._stopped:  # before they were there to be told
            self.stop()
        try:
            with self.exclusive():
                yield Stage(self._announcement())
            failures = yield from self._try_all()
            if not self._stopped:
                yield from self._save_best(failures)
        finally:
            self.close()

    def close(self) -> None:
        """See TrainingRun."""
        if self.candidates:
            first = self.candidates[0]
            self.steps_done, self.learnt = first.steps_done, first.learnt
        self.candidates = ()
        self.teachers.clear()

    def _new_candidates(self) -> Generator[Candidate, None, None]:
        states: Mapping[str, Any] = self.resume_state.state if self.resume_state else {}
        every = recipes(self.config)
        configs = {name: each for name, each in every.items() if name in states} or every  # without those that failed
        for number, (name, config) in enumerate(configs.items(), start=1):
            state = ResumeState(states[name]["step"], self.train_seconds, states[name]) if name in states else None
            yield Candidate(self, f"{number} of {len(configs)}", name, config, state)

    def _announcement(self) -> str:
        """What will be done and how long it takes, by a measured pass; the model must be ours."""
        height, width = self.pair.original.shape[:2]
        a_pass, pairs = seconds_a_pass(self.host, (width, height)), len(self.pairs)
        search, alone = (a_pass * passes(each, pairs) for each in (self.config, replace(self.config, search=False)))
        return (
            f"trying {len(self.candidates)} recipes side by side: {about(search)} in all, where your settings alone "
            f"take {about(alone)}"
        )

    def _try_all(self) -> Generator[Any, None, dict[TrainingRun, AddiftError]]:
        """Train and measure the recipes. Returns what went wrong with those that failed."""
        failures: dict[TrainingRun, AddiftError] = {}
        for run, event in train_runs(self.candidates):
            if isinstance(event, AddiftError):
                failures[run] = event
            elif isinstance(event, Exception):
                raise event
            elif not isinstance(event, StepReport):
                yield event
            elif event.step > self.steps_done:  # the first to tell of a step that all have taken
                yield from self._after_step_of_all(run, event, failures)
        return failures

    def _after_step_of_all(
        self, run: TrainingRun, report: StepReport, failures: Mapping[TrainingRun, object]
    ) -> Events:
        """One report for all recipes, with the loss of the first that learns; now and then a resume state."""
        total = steps_of(self.config, self.request.pairs)
        self.steps_done, self.train_seconds = report.step, run.train_seconds
        yield replace(report, total=total)
        if self._keep_snapshots and (report.step == total or report.step % self.resume_every == 0):
            going = (each for each in self.candidates if each not in failures and not each.state.error)
            yield ResumeState(report.step, self.train_seconds, {each.name: each.state.state_dict() for each in going})

    def _save_best(self, failures: Mapping[TrainingRun, AddiftError]) -> Events:
        """Save the best of the recipes that were measured. Raises the first's error where none was."""
        measured = {each: each.measured for each in self.candidates if each.measured}
        if not measured:
            raise next(iter(failures.values()))
        best = max(measured, key=lambda each: rank(measured[each]))
        said = {
            each: _figures(measured[each]) if each in measured else {"error": str(failures[each])}
            for each in self.candidates
        }
        search = {"chosen": best.name, "recipes": {each.name: figures for each, figures in said.items()}}
        self.request = replace(self.request, config=best.config)
        with self.exclusive():
            yield from self._save(
                load_lora(self.host, best.learnt), self.request.name, best.steps_done, is_whole=True,
                measured=replace(measured[best], search=search),
            )  # fmt: skip


class Candidate(TrainingRun):
    """One recipe of a search: it is trained and measured, and saves nothing."""

    def __init__(
        self, search: SearchRun, place: str, name: str, config: TrainConfig, resume_state: ResumeState | None
    ) -> None:
        self._search, self._place, self.name = search, place, name
        self.measured: Measured | None = None
        super().__init__(
            search.host, replace(search.request, config=config), prepared=search.prepared, resume_state=resume_state,
            model_title=search.model_title,
        )  # fmt: skip

    def encoded(self) -> Generator[Stage, None, Dataset]:
        """The pictures and prompts, encoded once for all recipes."""
        dataset: Dataset = yield from self._search.encoded()
        return dataset

    def new_teacher(self, pairs: Sequence[LatentPair], asked: Plan, *, shares_encoder: bool) -> TeacherPredictions:
        """See TrainingRun; recipes with the same samples share one."""
        teachers, key = self._search.teachers, (asked, shares_encoder)
        if key not in teachers:
            teachers[key] = super().new_teacher(pairs, asked, shares_encoder=shares_encoder)
        return teachers[key]

    def finish(self) -> Events:
        """Measure the LoRA of the recipe, on as many new pictures as the others'."""
        if not self._stopped:
            dataset = yield from self.encoded()
            budget = picture_budget(self._search.config, len(dataset.learnt))
            stages = measure(self.host, self._result(), dataset, self.config, budget)
            self.measured = yield from self._named(stages)

    def _named(self, stages: Generator[Stage, None, T]) -> Generator[Stage, None, T]:
        """The stages, each with the recipe's name."""
        while True:
            try:
                stage = next(stages)
            except StopIteration as end:
                result: T = end.value
                return result
            yield replace(stage, text=f"{stage.text}; recipe {self._place}: {self.name}")


def _figures(measured: Measured) -> dict[str, float]:
    """What a recipe reached, for the file's metadata."""
    new = measured.choice.new
    return {
        "reach": new.reach, "spread": new.spread, "of": new.count, "recovery": round(measured.trip.recovery, 4),
        "weight": round(measured.choice.weight, 6),
    }  # fmt: skip
