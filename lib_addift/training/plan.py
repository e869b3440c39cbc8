"""Which picture, direction, timestep and noise every step uses: decided before training, printable, reproducible."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lib_addift.config.settings import TrainConfig
from lib_addift.diffusion.latents import Direction, LatentPair, Role
from lib_addift.training.methods.phase import Goal, Phase

_REGULARISATION_SEED = 0x5EED  # draws of their own, so that the samples that learn are the same with and without them


@dataclass(frozen=True)
class Sample:
    """One sample of one optimizer step: a pair in one direction, at a timestep, with the noise of a seed."""

    pair: int  # of the list of all views: `views` of the first pair, then those of the second, then regularisation
    direction: Direction
    timestep: int
    noise_seed: int
    # What follows from the phase and the pair's role; the frozen model's answer does not depend on it.
    multiplier: float = field(default=1.0, compare=False)  # at which the LoRA acts
    goal: Goal = field(default=Goal.MODEL, compare=False)  # what the prediction shall become


Plan = tuple[tuple[Sample, ...], ...]  # for every optimizer step, its samples


@dataclass(frozen=True)
class PhasePlan:
    """A phase of a method, and the samples of each of its steps."""

    phase: Phase
    steps: Plan


def plan_phases(
    config: TrainConfig, phases: Sequence[Phase], pairs: Sequence[LatentPair], views: int = 1
) -> tuple[PhasePlan, ...]:
    """The samples of all phases on `pairs`: `views` of each pair to learn from, then the regularisation samples.

    To each visit of a step comes one sample of every regularisation role, taken in turn.
    """
    learnt = sum(pair.role is Role.LEARN for pair in pairs)
    repeats = [pair.repeats for pair in pairs[:learnt:views]]
    plans = []
    for phase in phases:
        own = dataclasses.replace(
            config, max_train_steps=phase.steps, directions=phase.directions,
            first_direction=phase.first_direction.value,
        )  # fmt: skip
        chosen = phase.pairs or range(len(repeats))
        order = [pair for pair in chosen for _ in range(repeats[pair])]
        plan = make_plan(own, len(repeats), views, order=order)
        plans.append(PhasePlan(phase, _for_phase(_with_regularisation(plan, own, pairs), phase, pairs)))
    return tuple(plans)


def _for_phase(plan: Plan, phase: Phase, pairs: Sequence[LatentPair]) -> Plan:
    """The plan's samples with the multiplier and the goal that they have in a phase."""
    goals = {Role.LEARN: phase.goal, Role.KEEP: Goal.MODEL, Role.PRIOR: Goal.NOISE}

    def placed(sample: Sample) -> Sample:
        multiplier, goal = phase.multiplier(sample.direction), goals[pairs[sample.pair].role]
        return dataclasses.replace(sample, multiplier=multiplier, goal=goal)

    return tuple(tuple(map(placed, samples)) for samples in plan)


def make_plan(config: TrainConfig, pairs: int = 1, views: int = 1, *, order: Sequence[int] = ()) -> Plan:
    """The samples of all `config.max_train_steps` steps, on `pairs` pairs or on those of `order`, again and again.

    A visit is one draw of timestep and noise. Visits take the pairs in turn, and each pair's views, and walk through
    the timestep bands in order, uniformly random inside a band. A visit is used in both directions: in one step
    (`directions = both`), in two successive steps (`alternate`), or only forward.
    """
    generator = torch.Generator("cpu").manual_seed(config.seed)
    edges = _band_edges(config)
    first = Direction(config.first_direction)
    order = order or range(pairs)
    visits = 0

    def visit() -> tuple[int, int, int]:
        nonlocal visits
        turn, band = divmod(visits // len(order), config.timestep_bands)  # every pair meets every band equally often
        low, high = edges[band], edges[band + 1]
        timestep = int(torch.randint(low, high, (), generator=generator))
        noise_seed = int(torch.randint(0, 2**62, (), generator=generator))
        pair, view = order[visits % len(order)], (turn + band) % views  # so does every view
        visits += 1
        return pair * views + view, timestep, noise_seed

    def samples(draws: list[tuple[int, int, int]], direction: Direction) -> tuple[Sample, ...]:
        return tuple(Sample(pair, direction, timestep, seed) for pair, timestep, seed in draws)

    steps: list[tuple[Sample, ...]] = []
    while len(steps) < config.max_train_steps:
        draws = [visit() for _ in range(config.batch_size)]
        if config.directions == "both":
            steps.append(samples(draws, first) + samples(draws, first.opposite))
        else:
            steps.append(samples(draws, first))
            if config.directions == "alternate":
                steps.append(samples(draws, first.opposite))
    return tuple(steps[: config.max_train_steps])


def teacher_samples(plans: Sequence[PhasePlan]) -> Plan:
    """The samples, by steps, for which the frozen model's own prediction is needed."""
    steps = (samples for plan in plans for samples in plan.steps)
    return tuple(tuple(sample for sample in samples if sample.goal is Goal.MODEL) for samples in steps)


def _band_edges(config: TrainConfig) -> list[int]:
    """The timesteps at which bands begin, and the end: bands + 1 whole numbers."""
    width = config.max_timestep - config.min_timestep
    return [config.min_timestep + width * k // config.timestep_bands for k in range(config.timestep_bands + 1)]


def _with_regularisation(plan: Plan, config: TrainConfig, pairs: Sequence[LatentPair]) -> Plan:
    """The plan with regularisation samples at the end of each step, at any timestep and in the step's directions."""
    by_role = [[n for n, pair in enumerate(pairs) if pair.role is role] for role in (Role.KEEP, Role.PRIOR)]
    if not any(by_role):
        return plan
    generator = torch.Generator("cpu").manual_seed(config.seed + _REGULARISATION_SEED)
    steps = []
    for number, samples in enumerate(plan):
        own: list[Sample] = []
        for role in filter(None, by_role):
            for visit in range(config.batch_size):
                pair = role[(number * config.batch_size + visit) % len(role)]
                timestep, seed = (int(torch.randint(0, top, (), generator=generator)) for top in (1000, 2**62))
                own.append(Sample(pair, samples[number % len(samples)].direction, timestep, seed))
        steps.append(samples + tuple(own))
    return tuple(steps)
