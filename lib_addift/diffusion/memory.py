"""A GPU's memory: a plan before the first pass, and a retry with fewer samples at once where the plan was wrong.

With gradients the plan is `fitting`, and the training loop retries with `MicroBatching.smaller`. Without gradients the
plan is `samples_at_once`, and `in_parts` retries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from lib_addift.families import SD15, SDXL, Family


@dataclass(frozen=True)
class _Kept:
    """Values that backward needs for each latent pixel of a sample in a full-size UNet.

    Counted at the size of the family's pictures, with attention that keeps no scores (tests/diffusion/test_memory.py
    counts again), and a tenth more.
    """

    output_blocks: int  # where the encoder's half is not differentiated
    whole_unet: int
    recomputed: int  # the blocks' inputs, and all of one block at a time, with what its backward needs besides


_KEPT = {SD15: _Kept(76_000, 127_000, 40_000), SDXL: _Kept(120_000, 232_000, 65_000)}
_ASIDE = 400 * 2**20  # bytes for the LoRA, its optimizer, kernels' scratch space, and what a GPU's allocator wastes
WITHOUT_GPU = 2 * 64 * 64  # latent pixels in one pass: more at once is no faster there, and memory is short
# Eight samples without gradients need no more memory than two with; for the smallest samples a device is busy only with
# more of them. Measured: docs/performance.md.
_AT_ONCE, _SMALL_AT_ONCE = 8, 16
_SMALL = 8 * 8  # latent pixels
# A residual block with its attention in every CompVis UNet; and the two on their own in diffusers'.
_BLOCKS = ("TimestepEmbedSequential", "ResnetBlock2D", "Transformer2DModel")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class MicroBatching:
    """How the samples of a training step are cut into passes; the gradients are the same for all."""

    at_once: int  # samples in one pass
    recomputes: bool  # gradient checkpointing: backward computes the UNet's blocks again instead of keeping them

    def __str__(self) -> str:
        samples = f"samples go through the model {self.at_once} at a time"
        return f"{samples} and its blocks are computed twice" if self.recomputes else samples

    def smaller(self) -> MicroBatching | None:
        """The next one, which is slower and needs less memory; None after the last one."""
        if self.at_once > 1:
            return MicroBatching((self.at_once + 1) // 2, self.recomputes)
        return None if self.recomputes else MicroBatching(1, recomputes=True)

    def needs(self, latent_pixels: int, *, whole_unet: bool, element_size: int, family: Family = SD15) -> int:
        """An estimate of the bytes that a step needs beside the model's weights, at the family's full width.

        `latent_pixels` are those of one sample; `whole_unet`: gradients pass through the encoder's half too;
        `element_size` is that of the type in which the model computes, in bytes.
        """
        kept = _KEPT[family]
        values = kept.recomputed if self.recomputes else kept.whole_unet if whole_unet else kept.output_blocks
        return self.at_once * latent_pixels * values * element_size + _ASIDE


def fitting(
    wanted: MicroBatching,
    free: int | None,
    latent_pixels: int,
    *,
    whole_unet: bool,
    element_size: int,
    family: Family = SD15,
) -> MicroBatching:
    """The fastest micro-batching from `wanted` on that needs no more than `free` bytes; the last one if none does.

    On Windows a full GPU raises no error: its driver goes on in the computer's memory, many times slower. So the plan
    is made before the first step. Without knowledge of the memory (`free` None) it is `wanted`.
    """

    def needs(batching: MicroBatching) -> int:
        return batching.needs(latent_pixels, whole_unet=whole_unet, element_size=element_size, family=family)

    while free is not None and needs(wanted) > free:
        smaller = wanted.smaller()
        if smaller is None:
            break
        wanted = smaller
    return wanted


def free_bytes(device: torch.device) -> int | None:
    """The free bytes of a CUDA device, including what PyTorch reserves there without use; None for other devices."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def samples_at_once(height: int, width: int) -> int:
    """How many samples with latents of this size go through the model in one pass without gradients."""
    return _SMALL_AT_ONCE if height * width <= _SMALL else _AT_ONCE


def in_parts(work: Callable[[Sequence[T]], R], items: Sequence[T], at_once: int = 0) -> list[R]:
    """The results of `work`, without gradients, for parts of at most `at_once` items (0: all), in their order.

    A part for which the GPU's memory is too small is halved. Raises OutOfMemoryError when a single item does not fit.
    """
    if 0 < at_once < len(items):
        parts = (items[start : start + at_once] for start in range(0, len(items), at_once))
        return [result for part in parts for result in in_parts(work, part)]
    try:
        return [work(items)]
    except torch.cuda.OutOfMemoryError:
        if len(items) == 1:
            raise
    torch.cuda.empty_cache()  # after the except block, which would hold the tensors of the pass that failed
    middle = (len(items) + 1) // 2
    return in_parts(work, items[:middle]) + in_parts(work, items[middle:])


@contextmanager
def recomputing(unet: nn.Module) -> Iterator[None]:
    """Gradient checkpointing: in passes begun inside, backward computes each block of the UNet again.

    The hooks of that moment act in the second computation. Blocks whose `forward` somebody else has replaced are left
    as they are.
    """
    from torch.utils.checkpoint import checkpoint  # not at the WebUI's start: in torch 2.3 it takes half a second

    wrapped = [part for part in unet.modules() if type(part).__name__ in _BLOCKS and "forward" not in vars(part)]
    try:
        for part in wrapped:
            # Not reentrant: reentrant checkpoints lose the gradients of parameters that are not among the inputs.
            part.forward = functools.partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        for part in wrapped:
            del part.forward
