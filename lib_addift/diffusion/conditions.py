"""What the UNet is conditioned on: the encoded prompts, as one value that only a host looks into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Conditions:
    """The conditions of a batch of B prompts.

    `crossattn` (B, tokens, width) is what the UNet's cross-attention reads. `vector` (B, n) is what some models add to
    the timestep's embedding (SDXL: the pooled text and the picture's sizes); None for a model that has no such input.
    """

    crossattn: torch.Tensor
    vector: torch.Tensor | None = None

    def __len__(self) -> int:
        """B, the number of prompts."""
        return len(self.crossattn)

    @property
    def tokens(self) -> int:
        """The tokens of each prompt, padding included: 77 or a multiple of it."""
        return self.crossattn.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one prompt's conditions, without B: (tokens, width) or (tokens, width, n).

        Conditions share a pass through the UNet only where this agrees.
        """
        vector = () if self.vector is None else self.vector.shape[1:]
        return (*self.crossattn.shape[1:], *vector)

    def __getitem__(self, samples: slice) -> Conditions:
        """The conditions of some of the prompts."""
        return self._each(lambda tensor: tensor[samples])

    def split(self) -> list[Conditions]:
        """One value for each prompt, every one of batch size 1."""
        return [self[place : place + 1] for place in range(len(self))]

    @staticmethod
    def cat(parts: Sequence[Conditions]) -> Conditions:
        """The conditions of several batches as those of one. Raises ValueError when only some have a `vector`."""
        vectors = [part.vector for part in parts if part.vector is not None]
        if vectors and len(vectors) != len(parts):
            raise ValueError(f"{len(vectors)} of {len(parts)} conditions have a vector: all must have one, or none.")
        return Conditions(torch.cat([part.crossattn for part in parts]), torch.cat(vectors) if vectors else None)

    def expand(self, batch: int) -> Conditions:
        """The conditions of one prompt for a batch of this size, without copying; those of a whole batch as they are.

        Raises RuntimeError when B is neither 1 nor `batch`.
        """
        return self._each(lambda tensor: tensor.expand(batch, *[-1] * (tensor.ndim - 1)))

    def repeat(self, times: int) -> Conditions:
        """The batch so many times in a row, (times * B, ...)."""
        return self._each(lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditions:
        """The same on another device, or in another type."""
        return self._each(lambda tensor: tensor.to(device=device, dtype=dtype))

    def float(self) -> Conditions:
        """The same in float32."""
        return self._each(torch.Tensor.float)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Conditions:
        return Conditions(change(self.crossattn), None if self.vector is None else change(self.vector))


def encode_to_length(encode: Callable[[Sequence[str]], Conditions], prompts: Sequence[str], tokens: int) -> Conditions:
    """The conditions of `prompts` with at least so many `tokens`, to share a batch with those of another call.

    `encode` is a model's `encode_prompts` or `encode_prompts_with_grad`. What is missing is filled up with the empty
    prompt, as the model does within a call.
    """
    cond = encode(prompts)
    if cond.tokens >= tokens:
        return cond
    empty = encode([""] * len(prompts)).crossattn  # one for each prompt: with a LoRA attached, multipliers differ
    chunks = (tokens - cond.tokens) // empty.shape[1]
    return Conditions(torch.cat([cond.crossattn, *[empty] * chunks], dim=1), cond.vector)
