"""The training loop: a generator that takes one optimizer step at a time, for one learner or for several at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from lib_addift.encode import LatentPair
from lib_addift.errors import TrainingError
from lib_addift.features import replaying
from lib_addift.hosts.base import Host, encode_to_length
from lib_addift.learner import Learner, StepReport
from lib_addift.lora import LoraNetwork, LoraStack
from lib_addift.objective import difference_loss
from lib_addift.plan import Turn
from lib_addift.reference import noisy_batch
from lib_addift.schedule import NoiseSchedule

_MOST_AT_ONCE = 1024  # samples in a pass, before memory says otherwise
_TIGHT = "memory is full: from now on no more than {} samples go through the model at once, which is slower"
_log = logging.getLogger(__name__)


def train(host: Host, learner: Learner) -> Iterator[StepReport]:
    """Take the steps that are left; closing the iterator stops training. The LoRA acts only inside of a step.

    Raises TrainingError when gradients stay non-finite.
    """
    for reports in train_together(host, [learner]):
        report = reports[learner]
        if isinstance(report, TrainingError):
            raise report
        yield report


def train_together(host: Host, learners: Sequence[Learner]) -> Iterator[dict[Learner, StepReport | TrainingError]]:
    """One step of every learner that has steps left, all samples in one pass; a learner that fails drops out.

    Several need one lesson each, and LoRAs of the same layers and rank. The caller takes a learner out of `learners`
    for which there is no more use. When a GPU's memory is full, the step is taken again with half as many samples in a
    pass, and so are those that follow.
    """
    schedule = NoiseSchedule(host.alphas_cumprod)
    failed: set[Learner] = set()
    at_once = _MOST_AT_ONCE
    while active := [each for each in learners if not each.is_done and each not in failed]:
        for learner in active:
            learner.references.look_ahead(learner.turns)
        losses, fitting = _as_memory_allows(host, active, schedule, at_once)
        note = _TIGHT.format(fitting) if fitting < at_once else ""
        at_once = fitting
        reports: dict[Learner, StepReport | TrainingError] = {}
        for learner, loss in zip(active, losses, strict=True):
            try:
                reports[learner] = learner.take_step(float(loss), note)
            except TrainingError as error:
                reports[learner] = error
                failed.add(learner)
        yield reports


def _as_memory_allows(
    host: Host, learners: Sequence[Learner], schedule: NoiseSchedule, at_once: int
) -> tuple[list[torch.Tensor], int]:
    """See `_differentiate`; also returns how many samples at once did fit."""
    while True:
        try:
            with _acting(learners) as network:
                return _differentiate(host, network, learners, schedule, at_once), at_once
        except torch.cuda.OutOfMemoryError:
            at_once = min(at_once, sum(len(learner.turns) for learner in learners))
            if at_once == 1:
                raise
        at_once = (at_once + 1) // 2  # here nothing of the pass that failed is held any more
        for learner in learners:
            learner.drop_gradients()
        torch.cuda.empty_cache()
        _log.warning(_TIGHT.format(at_once))


@contextmanager
def _acting(learners: Sequence[Learner]) -> Iterator[LoraNetwork | LoraStack]:
    """The context in which all the learners' LoRAs act, each on its own samples, on top of those beneath them."""
    with ExitStack() as attached:
        for network in learners[0].beneath:
            network.multiplier = 1.0
            attached.enter_context(network.attach())
        networks = [learner.network for learner in learners]
        for learner in learners:
            learner.network.dropout_seed = learner.dropout_seed
        top = networks[0] if len(networks) == 1 else LoraStack(networks)
        attached.enter_context(top.attach())
        try:
            yield top
        finally:
            for network in networks:
                network.dropout_seed = None


@dataclass(frozen=True)
class _Sample:
    """A turn of one of the learners."""

    owner: int
    turn: Turn
    pair: LatentPair


def _differentiate(
    host: Host, network: LoraNetwork | LoraStack, learners: Sequence[Learner], schedule: NoiseSchedule, at_once: int
) -> list[torch.Tensor]:
    """The mean loss of each learner's next turns, its gradients added up; pictures of one size go in one pass.

    No more than `at_once` samples do.
    """
    groups: dict[tuple[int, ...], list[_Sample]] = {}
    for owner, learner in enumerate(learners):
        for turn in learner.turns:
            pair = learner.pairs[turn.pair]
            groups.setdefault(pair.shape, []).append(_Sample(owner, turn, pair))
    losses = [torch.zeros((), device=host.device) for _ in learners]
    for samples in (group[n : n + at_once] for group in groups.values() for n in range(0, len(group), at_once)):
        _set_multipliers(network, samples, learners, host.device)
        sides = [sample.pair.student(sample.turn.direction) for sample in samples]
        noisy_latents, timesteps, cond = noisy_batch(sides, [sample.turn for sample in samples], schedule)
        if any(learner.network.has_text for learner in learners):
            prompts = [side.prompt for side in sides]
            cond = encode_to_length(host.encode_prompts_with_grad, prompts, cond.shape[1])
        features = [learners[sample.owner].references.student_features(sample.turn) for sample in samples]
        with replaying(host.unet, features):
            noise_pred = host.predict_noise(noisy_latents, timesteps, cond)
        scaled = []
        for owner in dict.fromkeys(sample.owner for sample in samples):
            learner, chosen = learners[owner], [n for n, sample in enumerate(samples) if sample.owner == owner]
            part = slice(chosen[0], chosen[-1] + 1)  # a learner's samples stand together
            loss = _sample_losses(noise_pred[part], timesteps[part], samples[part], learner, schedule).mean()
            loss = loss * (len(chosen) / learner.visits)
            losses[owner] += loss.detach()
            scaled.append(loss * learner.loss_scale)
        torch.stack(scaled).sum().backward()  # now: what is checkpointed runs again, with this group's multipliers
    return losses


def _set_multipliers(
    network: LoraNetwork | LoraStack, samples: Sequence[_Sample], learners: Sequence[Learner], device: torch.device
) -> None:
    """Put them on the device once: otherwise every layer brings them there anew."""
    multipliers = [learners[sample.owner].phase.multiplier(sample.turn.direction) for sample in samples]
    network.multiplier = torch.tensor(multipliers, device=device)
    if isinstance(network, LoraStack):
        network.owners = torch.tensor([sample.owner for sample in samples], device=device)


def _sample_losses(
    noise_pred: torch.Tensor,
    timesteps: torch.Tensor,
    samples: Sequence[_Sample],
    learner: Learner,
    schedule: NoiseSchedule,
) -> torch.Tensor:
    """The weighted loss of each of a learner's samples, (B,)."""
    loss = difference_loss(
        noise_pred,
        torch.cat([learner.goal(sample.turn) for sample in samples]),
        timesteps=timesteps,
        mask=_masks([sample.pair for sample in samples]),
        schedule=schedule,
        config=learner.config,
    )
    weights = [sample.pair.weight for sample in samples]
    return loss if all(weight == 1 for weight in weights) else loss * torch.tensor(weights, device=loss.device)


def _masks(pairs: Sequence[LatentPair]) -> torch.Tensor | None:
    """(B, 1, h, w); a pair without a mask learns everywhere."""
    if all(pair.mask is None for pair in pairs):
        return None
    ones = torch.ones_like(pairs[0].original.latents[:, :1])
    return torch.cat([ones if pair.mask is None else pair.mask for pair in pairs])
