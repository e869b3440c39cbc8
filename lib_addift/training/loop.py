"""The training loop: a generator that takes one optimizer step at a time, for one learner or for several at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch

from lib_addift.diffusion.conditions import encode_to_length
from lib_addift.diffusion.host import Host
from lib_addift.diffusion.latents import LatentPair
from lib_addift.diffusion.memory import MicroBatching, fitting, free_bytes, recomputing
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.errors import TrainingError
from lib_addift.lora.network import LoraNetwork, LoraStack
from lib_addift.training.encoder_cache import leave_encoder_alone, replaying
from lib_addift.training.loss import difference_loss
from lib_addift.training.plan import Turn
from lib_addift.training.state import StepReport, TrainState
from lib_addift.training.targets import noisy_batch

_log = logging.getLogger(__name__)


def train(host: Host, state: TrainState) -> Iterator[StepReport]:
    """Take the steps that are left; closing the iterator stops training. The LoRA acts only inside of a step.

    Raises TrainingError when gradients stay non-finite.
    """
    for reports in train_together(host, [state]):
        report = reports[state]
        if isinstance(report, TrainingError):
            raise report
        yield report


def train_together(host: Host, states: Sequence[TrainState]) -> Iterator[dict[TrainState, StepReport | TrainingError]]:
    """One step of every learner that has steps left, all samples in one pass; a learner that fails drops out.

    Several need one lesson each, and LoRAs of the same layers and rank. The caller takes a learner out of `states`
    for which there is no more use. Where a GPU has too little memory, fewer samples go through the model at once, and
    blocks are computed twice, from the first step on; and when it is full nevertheless, from that step on.
    """
    schedule = NoiseSchedule(host.alphas_cumprod)
    failed: set[TrainState] = set()
    wished = said = _wished(states)
    micro_batching: MicroBatching | None = None
    while active := [each for each in states if not each.is_done and each not in failed]:
        for state in active:
            state.teacher.prefetch(state.turns)
        micro_batching = micro_batching or _planned(host, active, wished)
        losses, micro_batching = _as_memory_allows(host, active, schedule, micro_batching)
        note = "" if micro_batching == said else f"memory is short: from now on {micro_batching}, which is slower"
        said = micro_batching
        reports: dict[TrainState, StepReport | TrainingError] = {}
        for state, loss in zip(active, losses, strict=True):
            try:
                reports[state] = state.take_step(float(loss), note)
            except TrainingError as error:
                reports[state] = error
                failed.add(state)
        yield reports


def _wished(states: Sequence[TrainState]) -> MicroBatching:
    """How the samples would go through the model if there were memory enough."""
    samples = sum(max(len(turns) for lesson in state.lessons for turns in lesson.plan) for state in states)
    return MicroBatching(samples, any(state.config.gradient_checkpointing for state in states))


def _planned(host: Host, states: Sequence[TrainState], wished: MicroBatching) -> MicroBatching:
    """How they will, by what is free before the first step."""
    networks = [network for state in states for network in state.networks]
    latent_pixels = max(math.prod(pair.original.latents.shape[2:]) for state in states for pair in state.pairs)
    stored = next(host.unet.parameters()).element_size()
    return fitting(
        wished, free_bytes(host.device), latent_pixels,
        whole_unet=not leave_encoder_alone(networks), element_size=max(stored, 2),
    )  # fmt: skip


def _as_memory_allows(
    host: Host, states: Sequence[TrainState], schedule: NoiseSchedule, micro_batching: MicroBatching
) -> tuple[list[torch.Tensor], MicroBatching]:
    """See `compute_gradients`; also returns the thrift with which the memory did suffice."""
    while True:
        try:
            with attached_loras(states) as network:
                return compute_gradients(host, network, states, schedule, micro_batching), micro_batching
        except torch.cuda.OutOfMemoryError:
            samples = sum(len(state.turns) for state in states)
            smaller = replace(micro_batching, at_once=min(micro_batching.at_once, samples)).smaller()
            if smaller is None:
                raise
        micro_batching = smaller  # here nothing of the pass that failed is held any more
        for state in states:
            state.drop_gradients()
        torch.cuda.empty_cache()
        _log.warning("memory is full: %s", micro_batching)


@contextmanager
def attached_loras(states: Sequence[TrainState]) -> Iterator[LoraNetwork | LoraStack]:
    """The context in which all the learners' LoRAs act, each on its own samples, on top of those beneath them."""
    with ExitStack() as attached:
        for network in states[0].frozen_loras:
            network.multiplier = 1.0
            attached.enter_context(network.attach())
        networks = [state.network for state in states]
        for state in states:
            state.network.dropout_seed = state.dropout_seed
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


def compute_gradients(
    host: Host,
    network: LoraNetwork | LoraStack,
    states: Sequence[TrainState],
    schedule: NoiseSchedule,
    micro_batching: MicroBatching,
) -> list[torch.Tensor]:
    """The mean loss of each learner's next turns, its gradients added up; pictures of one size go in one pass."""
    groups: dict[tuple[int, ...], list[_Sample]] = {}
    for owner, state in enumerate(states):
        for turn in state.turns:
            pair = state.pairs[turn.pair]
            groups.setdefault(pair.shape, []).append(_Sample(owner, turn, pair))
    losses = [torch.zeros((), device=host.device) for _ in states]
    size = micro_batching.at_once
    for samples in (group[n : n + size] for group in groups.values() for n in range(0, len(group), size)):
        _set_multipliers(network, samples, states, host.device)
        sides = [sample.pair.student(sample.turn.direction) for sample in samples]
        noisy_latents, timesteps, cond = noisy_batch(sides, [sample.turn for sample in samples], schedule)
        if any(state.network.has_text for state in states):
            prompts = [side.prompt for side in sides]
            cond = encode_to_length(host.encode_prompts_with_grad, prompts, cond.tokens)
        features = [states[sample.owner].teacher.student_features(sample.turn) for sample in samples]
        with replaying(host.unet, features), recomputing(host.unet) if micro_batching.recomputes else nullcontext():
            noise_pred = host.predict_noise(noisy_latents, timesteps, cond)
        scaled = []
        for owner in dict.fromkeys(sample.owner for sample in samples):
            state, chosen = states[owner], [n for n, sample in enumerate(samples) if sample.owner == owner]
            part = slice(chosen[0], chosen[-1] + 1)  # a learner's samples stand together
            loss = _sample_losses(noise_pred[part], timesteps[part], samples[part], state, schedule).mean()
            loss = loss * (len(chosen) / state.visits)
            losses[owner] += loss.detach()
            scaled.append(loss * state.loss_scale)
        torch.stack(scaled).sum().backward()  # now: what is checkpointed runs again, with this group's multipliers
    return losses


def _set_multipliers(
    network: LoraNetwork | LoraStack, samples: Sequence[_Sample], states: Sequence[TrainState], device: torch.device
) -> None:
    """Put them on the device once: otherwise every layer brings them there anew."""
    multipliers = [states[sample.owner].phase.multiplier(sample.turn.direction) for sample in samples]
    network.multiplier = torch.tensor(multipliers, device=device)
    if isinstance(network, LoraStack):
        network.owners = torch.tensor([sample.owner for sample in samples], device=device)


def _sample_losses(
    noise_pred: torch.Tensor,
    timesteps: torch.Tensor,
    samples: Sequence[_Sample],
    state: TrainState,
    schedule: NoiseSchedule,
) -> torch.Tensor:
    """The weighted loss of each of a learner's samples, (B,)."""
    loss = difference_loss(
        noise_pred,
        torch.cat([state.goal(sample.turn) for sample in samples]),
        timesteps=timesteps,
        mask=_masks([sample.pair for sample in samples]),
        schedule=schedule,
        config=state.config,
    )
    weights = [sample.pair.weight for sample in samples]
    return loss if all(weight == 1 for weight in weights) else loss * torch.tensor(weights, device=loss.device)


def _masks(pairs: Sequence[LatentPair]) -> torch.Tensor | None:
    """(B, 1, h, w); a pair without a mask learns everywhere."""
    if all(pair.mask is None for pair in pairs):
        return None
    ones = torch.ones_like(pairs[0].original.latents[:, :1])
    return torch.cat([ones if pair.mask is None else pair.mask for pair in pairs])
