"""Memory: how much of a GPU's a training step needs, what to do where there is less, and blocks that are not kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

# Values that backward needs for each latent pixel of a sample in a UNet of SD1.5's width: counted at 512 px, with
# attention that keeps no scores (tests/diffusion/test_memory.py counts again), and a tenth more.
_OUTPUT_BLOCKS = 76_000  # where the encoder's half is not differentiated
_WHOLE_UNET = 127_000
_RECOMPUTED = 40_000  # the blocks' inputs, and all of one block at a time
_ASIDE = 400 * 2**20  # bytes for the LoRA, its optimizer, kernels' scratch space, and what a GPU's allocator wastes
# Eight samples without gradients need no more memory than two from which a LoRA learns; of the smallest ones it takes
# more to keep a device busy. Measured: docs/performance.md.
_AT_ONCE, _SMALL_AT_ONCE = 8, 16
_SMALL = 8 * 8  # latent pixels
# A residual block with its attention in every CompVis UNet; and the two on their own in diffusers'.
_BLOCKS = ("TimestepEmbedSequential", "ResnetBlock2D", "Transformer2DModel")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class MicroBatching:
    """How the samples of a training step go through the model; all ways learn the same."""

    at_once: int  # samples in one pass
    recomputes: bool  # blocks are computed again in backward instead of being kept

    def __str__(self) -> str:
        samples = f"samples go through the model {self.at_once} at a time"
        return f"{samples} and its blocks are computed twice" if self.recomputes else samples

    def smaller(self) -> MicroBatching | None:
        """The next way, which is slower and needs less; None after the last one."""
        if self.at_once > 1:
            return MicroBatching((self.at_once + 1) // 2, self.recomputes)
        return None if self.recomputes else MicroBatching(1, recomputes=True)

    def needs(self, latent_pixels: int, *, whole_unet: bool, element_size: int) -> int:
        """Bytes beside the model, about; `element_size` is that of what it computes in."""
        values = _RECOMPUTED if self.recomputes else _WHOLE_UNET if whole_unet else _OUTPUT_BLOCKS
        return self.at_once * latent_pixels * values * element_size + _ASIDE


def fitting(
    wanted: MicroBatching, free: int | None, latent_pixels: int, *, whole_unet: bool, element_size: int
) -> MicroBatching:
    """The fastest way from `wanted` on that needs no more than `free` bytes; the last one where none does.

    On Windows a full GPU is no error: its driver goes on in the computer's memory, many times slower. So it is better
    to know before.
    """
    while free is not None and wanted.needs(latent_pixels, whole_unet=whole_unet, element_size=element_size) > free:
        smaller = wanted.smaller()
        if smaller is None:
            break
        wanted = smaller
    return wanted


def free_bytes(device: torch.device) -> int | None:
    """What is free on a CUDA device, with what PyTorch holds there without use; None where nobody knows."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def samples_at_once(height: int, width: int) -> int:
    """How many samples with latents of this size go in one pass that needs no gradients."""
    return _SMALL_AT_ONCE if height * width <= _SMALL else _AT_ONCE


def in_parts(work: Callable[[Sequence[T]], R], items: Sequence[T]) -> list[R]:
    """What `work` gives for all `items` at once; where a GPU's memory is full, for one half and for the other."""
    try:
        return [work(items)]
    except torch.cuda.OutOfMemoryError:
        if len(items) == 1:
            raise
    torch.cuda.empty_cache()  # here nothing of what failed is held any more
    middle = (len(items) + 1) // 2
    return in_parts(work, items[:middle]) + in_parts(work, items[middle:])


@contextmanager
def recomputing(unet: nn.Module) -> Iterator[None]:
    """The passes begun inside keep no block of the UNet for backward: it is computed again there, with the hooks then.

    A `forward` that somebody else has put on a block stays.
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
