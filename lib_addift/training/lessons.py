"""The phases of a method made ready: which turns each step has, and what each turn's prediction shall become."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import LatentPair, Role
from lib_addift.training.methods.phase import Goal, Phase
from lib_addift.training.plan import Plan, Turn, make_plan

_COMPANIONS_SEED = 0x5EED  # their draws are apart, so that the turns that learn are the same with and without them


@dataclass(frozen=True)
class Lesson:
    """A phase and its plan. Turns count the views of all pairs, then the companions."""

    phase: Phase
    plan: Plan


def make_lessons(
    config: TrainConfig, phases: Sequence[Phase], pairs: Sequence[LatentPair], views: int = 1
) -> tuple[Lesson, ...]:
    """The lessons on `pairs`: `views` of each pair that is learnt from, then those that must stay as they are.

    The latter are companions: to each visit of a step comes one of every such role, taken in turn.
    """
    learnt = sum(pair.role is Role.LEARN for pair in pairs)
    repeats = [pair.repeats for pair in pairs[:learnt:views]]
    lessons = []
    for phase in phases:
        own = dataclasses.replace(
            config, max_train_steps=phase.steps, directions=phase.directions,
            first_direction=phase.first_direction.value,
        )  # fmt: skip
        chosen = phase.pairs or range(len(repeats))
        order = [pair for pair in chosen for _ in range(repeats[pair])]
        plan = make_plan(own, len(repeats), views, order=order)
        lessons.append(Lesson(phase, _with_companions(plan, own, pairs)))
    return tuple(lessons)


def _with_companions(plan: Plan, config: TrainConfig, pairs: Sequence[LatentPair]) -> Plan:
    """The plan with companions at the end of each step, at any timestep and in the step's directions."""
    by_role = [[n for n, pair in enumerate(pairs) if pair.role is role] for role in (Role.KEEP, Role.PRIOR)]
    if not any(by_role):
        return plan
    generator = torch.Generator("cpu").manual_seed(config.seed + _COMPANIONS_SEED)
    steps = []
    for number, turns in enumerate(plan):
        own: list[Turn] = []
        for role in filter(None, by_role):
            for visit in range(config.batch_size):
                pair = role[(number * config.batch_size + visit) % len(role)]
                timestep, seed = (int(torch.randint(0, top, (), generator=generator)) for top in (1000, 2**62))
                own.append(Turn(pair, turns[number % len(turns)].direction, timestep, seed))
        steps.append(turns + tuple(own))
    return tuple(steps)


def goal_of(turn: Turn, phase: Phase, pairs: Sequence[LatentPair]) -> Goal:
    """What the prediction of a turn shall become."""
    role = pairs[turn.pair].role
    return {Role.LEARN: phase.goal, Role.KEEP: Goal.MODEL, Role.PRIOR: Goal.NOISE}[role]


def asked_turns(lessons: Sequence[Lesson], pairs: Sequence[LatentPair]) -> Plan:
    """The turns, by steps, for which the model's own prediction is needed."""

    def steps() -> Iterator[tuple[Turn, ...]]:
        for lesson in lessons:
            for turns in lesson.plan:
                yield tuple(turn for turn in turns if goal_of(turn, lesson.phase, pairs) is Goal.MODEL)

    return tuple(steps())
