"""The training loop: a generator that takes one optimizer step at a time, of one LoRA or of several at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

from lib_addift.diffusion.conditions import Conditions, encode_to_length
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.errors import TrainingError
from lib_addift.lora.network import LoraStack
from lib_addift.training.micro_batches import MicroBatch, MicroBatcher
from lib_addift.training.state import StepReport, TrainState
from lib_addift.training.targets import noisy_batch

T = TypeVar("T")
StepReports = dict[TrainState, StepReport | TrainingError]


def train(model: Model, states: Sequence[TrainState]) -> Iterator[StepReports]:
    """Take the optimizer steps that are left; closing the iterator stops training. LoRAs act only inside of a step.

    ADDifT (hako-mikan 2024): with the LoRA at +m the model sees a pair's noisy target, and at -m its noisy original; it
    shall predict what the model without the LoRA predicts for the pair's other picture under the same noise.

    Several states need one phase each; their samples share the passes, whatever the kinds of their LoRAs. A state
    that fails yields its error and takes no further step; the caller may also take a state out of `states`.
    """
    schedule = NoiseSchedule(model.alphas_cumprod, model.prediction_type)
    batcher = MicroBatcher(model, states)

    def compute_gradients(active: Sequence[TrainState], batches: Iterable[MicroBatch]) -> None:
        with attached_loras(active) as stack:
            for batch in batches:
                _choose_samples(stack, active, batch)  # whose LoRA acts in which sample, and at which multiplier
                noisy_latents, timesteps, cond = noisy_batch(batch.sides, batch.samples, schedule)
                if any(state.network.has_text for state in active):
                    cond = _learnt_conditions(model, batch, cond)
                with batch.shortcuts(model.unet):
                    noise_pred = model.predict_noise(noisy_latents, timesteps, cond)
                losses = [
                    state.add_loss(noise_pred[part], timesteps[part], batch.samples[part], schedule)
                    for state, part in batch.by_state()
                ]
                torch.stack(losses).sum().backward()  # now: checkpointed blocks run again, at this batch's multipliers

    while active := [state for state in states if state.is_active]:
        # The targets: what the frozen model predicts, many samples in a batch and some steps ahead.
        for state in active:
            state.teacher.prefetch(state.samples)
        # Forward and backward, in micro-batches that fit into the memory; then the optimizer's step.
        note = batcher.run(compute_gradients, active)
        yield {state: state.take_step(note) for state in active}


def train_one(model: Model, state: TrainState) -> Iterator[StepReport]:
    """`train` for one LoRA. Raises TrainingError when gradients stay non-finite."""
    for reports in train(model, [state]):
        report = reports[state]
        if isinstance(report, TrainingError):
            raise report
        yield report


@contextmanager
def attached_loras(states: Sequence[TrainState]) -> Iterator[LoraStack | None]:
    """The block in which all the states' LoRAs act, each on its own samples, on top of their frozen ones.

    LoRAs of one form act as the LoraStack that is given; others each for itself.
    """
    with ExitStack() as attached:
        for network in states[0].stage.frozen_loras:
            network.multiplier = 1.0
            attached.enter_context(network.attach())
        networks = [state.network for state in states]
        for state in states:
            state.network.dropout_seed = state.dropout_seed
        stack = LoraStack(networks) if len(networks) > 1 and LoraStack.can_hold(networks) else None
        for each in [stack] if stack else networks:
            attached.enter_context(each.attach())
        try:
            yield stack
        finally:
            for network in networks:
                network.dropout_seed = network.samples = None


def _choose_samples(stack: LoraStack | None, states: Sequence[TrainState], batch: MicroBatch) -> None:
    """Put the multipliers on the device once: otherwise every layer brings them there anew."""
    device = batch.sides[0].latents.device
    multipliers = torch.tensor([sample.multiplier for sample in batch.samples], device=device)
    if stack:
        stack.multiplier = multipliers
        stack.owners = torch.tensor([states.index(owner) for owner in batch.owners], device=device)
        return
    parts = dict(batch.by_state())
    for state in states:
        part = parts.get(state, slice(0, 0))
        state.network.multiplier = multipliers[part]
        state.network.samples = part if len(states) > 1 else None


def _learnt_conditions(model: Model, batch: MicroBatch, cond: Conditions) -> Conditions:
    """The conditions of the samples' prompts through the text encoder that learns, as long as those without LoRA."""
    return encode_to_length(model.encode_prompts_with_grad, [side.prompt for side in batch.sides], cond.tokens)


def timed(items: Iterable[T]) -> Iterator[tuple[float, T]]:
    """Each item with the seconds that it took to come."""
    iterator = iter(items)
    while True:
        begun = time.monotonic()
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield time.monotonic() - begun, item
