"""The samples of a step in micro-batches: as many in one pass as the memory allows, fewer where a GPU is full."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn

from lib_addift.diffusion.host import Model
from lib_addift.diffusion.latents import Side
from lib_addift.diffusion.memory import WITHOUT_GPU, MicroBatching, fitting, free_bytes, recomputing
from lib_addift.training.encoder_cache import leave_encoder_alone, replaying
from lib_addift.training.plan import Sample
from lib_addift.training.state import TrainState

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Samples of one size that go through the model in one pass; those of a state stand together."""

    owners: Sequence[TrainState]  # of each sample
    samples: Sequence[Sample]
    sides: Sequence[Side]  # of each sample: what the LoRA sees
    recomputes: bool  # blocks are computed again in backward instead of being kept

    def by_state(self) -> Iterator[tuple[TrainState, slice]]:
        """Each state that has samples here, and which."""
        for state in dict.fromkeys(self.owners):
            first = self.owners.index(state)
            yield state, slice(first, first + self.owners.count(state))

    @contextmanager
    def shortcuts(self, unet: nn.Module) -> Iterator[None]:
        """Inside, the encoder's known features stand in for computing it, and blocks are recomputed where needed."""
        pairs = zip(self.owners, self.samples, strict=True)
        features = [state.teacher.student_features(sample) for state, sample in pairs]
        with replaying(unet, features), recomputing(unet) if self.recomputes else nullcontext():
            yield


def wished(states: Sequence[TrainState], *, has_gpu: bool = True) -> MicroBatching:
    """How the samples of a step go through the model where there is memory enough: all at once.

    Without a GPU, whose memory is known, large pictures of several states take turns.
    """
    of_each = [max(len(samples) for plan in state.plans for samples in plan.steps) for state in states]
    at_once = sum(of_each) if has_gpu else min(sum(of_each), max(*of_each, WITHOUT_GPU // _latent_pixels(states)))
    return MicroBatching(at_once, any(state.config.gradient_checkpointing for state in states))


def _latent_pixels(states: Sequence[TrainState]) -> int:
    """Of the largest picture."""
    return max(math.prod(pair.original.latents.shape[2:]) for state in states for pair in state.pairs)


class MicroBatcher:
    """Cuts steps into micro-batches: planned before the first step by the free memory; smaller after a full GPU."""

    def __init__(self, model: Model, states: Sequence[TrainState]) -> None:
        self._model = model
        self._wished = self._noted = wished(states, has_gpu=model.device.type == "cuda")
        self._current: MicroBatching | None = None

    def run(
        self,
        compute_gradients: Callable[[Sequence[TrainState], Iterable[MicroBatch]], None],
        states: Sequence[TrainState],
    ) -> str:
        """One step's gradients; when a GPU's memory is full, again with smaller micro-batches until it suffices.

        Returns what a person should know of it, once for each change of the size, or ''.
        """
        self._current = self._current or self._planned(states)
        while True:
            try:
                compute_gradients(states, self._micro_batches(states, self._current))
                break
            except torch.cuda.OutOfMemoryError:
                samples = sum(len(state.samples) for state in states)
                smaller = replace(self._current, at_once=min(self._current.at_once, samples)).smaller()
                if smaller is None:
                    raise
            self._current = smaller  # here nothing of the pass that failed is held any more
            for state in states:
                state.reset_step()
            torch.cuda.empty_cache()
            _log.warning("memory is full: %s", smaller)
        if self._current == self._noted:
            return ""
        self._noted = self._current
        return f"memory is short: from now on {self._current}, which is slower"

    def _planned(self, states: Sequence[TrainState]) -> MicroBatching:
        """What fits into the memory that is free before the first step."""
        networks = [network for state in states for network in state.networks]
        stored = next(self._model.unet.parameters()).element_size()
        return fitting(
            self._wished, free_bytes(self._model.device), _latent_pixels(states),
            whole_unet=not leave_encoder_alone(networks), element_size=max(stored, 2),
            family=self._model.family,
        )  # fmt: skip

    @staticmethod
    def _micro_batches(states: Sequence[TrainState], batching: MicroBatching) -> Iterator[MicroBatch]:
        groups: dict[tuple[object, ...], list[tuple[TrainState, Sample, Side]]] = {}
        for state in states:
            has_features = leave_encoder_alone([state.network])
            for sample in state.samples:
                pair = state.pairs[sample.pair]
                alike = groups.setdefault((pair.shape, has_features), [])
                alike.append((state, sample, pair.student(sample.direction)))
        size = batching.at_once
        for group in groups.values():
            for start in range(0, len(group), size):
                owners, samples, sides = zip(*group[start : start + size], strict=True)
                yield MicroBatch(owners, samples, sides, batching.recomputes)
