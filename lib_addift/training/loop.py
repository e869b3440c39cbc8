"""The training loop: a generator that takes one optimizer step at a time, of one LoRA or of several at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from lib_addift.diffusion.conditions import Conditions, encode_to_length
from lib_addift.diffusion.host import Model
from lib_addift.diffusion.schedule import NoiseSchedule
from lib_addift.errors import TrainingError
from lib_addift.lora.network import LoraNetwork, LoraStack
from lib_addift.training.micro_batches import MicroBatch, MicroBatcher
from lib_addift.training.state import StepReport, TrainState
from lib_addift.training.targets import noisy_batch

StepReports = dict[TrainState, StepReport | TrainingError]


def train(model: Model, states: Sequence[TrainState]) -> Iterator[StepReports]:
    """Take the optimizer steps that are left; closing the iterator stops training. LoRAs act only inside of a step.

    ADDifT (hako-mikan 2024): with the LoRA at +m the model sees a pair's noisy target, and at -m its noisy original; it
    shall predict what the model without the LoRA predicts for the pair's other picture under the same noise.

    Several states need one phase each, and LoRAs of the same layers and rank: their samples share the passes. A state
    that fails yields its error and takes no further step; the caller may also take a state out of `states`.
    """
    schedule = NoiseSchedule(model.alphas_cumprod)
    batcher = MicroBatcher(model, states)

    def compute_gradients(active: Sequence[TrainState], batches: Iterable[MicroBatch]) -> None:
        with attached_loras(active) as loras:
            for batch in batches:
                _choose_samples(loras, batch)  # whose LoRA acts in which sample, and at which multiplier
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
def attached_loras(states: Sequence[TrainState]) -> Iterator[LoraNetwork | LoraStack]:
    """The block in which all the states' LoRAs act, each on its own samples, on top of their frozen ones."""
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


def _choose_samples(loras: LoraNetwork | LoraStack, batch: MicroBatch) -> None:
    """Put the multipliers on the device once: otherwise every layer brings them there anew."""
    device = batch.sides[0].latents.device
    loras.multiplier = torch.tensor(batch.multipliers, device=device)
    if isinstance(loras, LoraStack):
        loras.owners = torch.tensor(batch.owners, device=device)


def _learnt_conditions(model: Model, batch: MicroBatch, cond: Conditions) -> Conditions:
    """The conditions of the samples' prompts through the text encoder that learns, as long as those without LoRA."""
    return encode_to_length(model.encode_prompts_with_grad, [side.prompt for side in batch.sides], cond.tokens)
