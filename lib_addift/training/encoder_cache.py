"""The UNet's encoder, computed once: what the frozen model sees in one direction, the LoRA sees in the other.

A LoRA of the output blocks changes nothing before them. So what the encoder makes of a picture with its noise is kept
when the model is asked for a reference, and the training step begins at the first output block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lib_addift.lora.network import LoraNetwork

_DECODER = ("lora_unet_up_blocks", "lora_unet_output_blocks")
Features = list[Any]  # what each part of the encoder gives for one sample: a tensor (1, ...), or tuples of such


def encoder_parts(unet: nn.Module) -> list[nn.Module]:
    """The blocks down to the middle, in the order in which the UNet calls them; CompVis or diffusers."""
    for blocks, middle in (("input_blocks", "middle_block"), ("down_blocks", "mid_block")):
        if hasattr(unet, blocks):
            return [*getattr(unet, blocks).children(), getattr(unet, middle)]
    return []


def leave_encoder_alone(networks: Sequence[LoraNetwork]) -> bool:
    """Whether the LoRAs act in the output blocks only."""
    return all(name.startswith(_DECODER) for network in networks for name in network.layers)


@contextmanager
def recording(parts: Sequence[nn.Module]) -> Iterator[list[Features]]:
    """Inside, one batch goes through the UNet; afterwards the list has the features of each of its samples.

    It stays empty without `parts`, and on a host that goes around the blocks' own `forward`.
    """
    outputs: dict[int, Any] = {}
    samples: list[Features] = []

    def keep(place: int) -> Callable[..., None]:
        return lambda _part, _args, output: outputs.__setitem__(place, output)

    with ExitStack() as hooks:
        for place, part in enumerate(parts):
            hooks.callback(part.register_forward_hook(keep(place)).remove)
        yield samples
    if parts and len(outputs) == len(parts):
        by_part = [_split(outputs[place]) for place in range(len(parts))]
        samples += [list(outputs_of_one) for outputs_of_one in zip(*by_part, strict=True)]


@contextmanager
def replaying(unet: nn.Module, samples: Sequence[Features | None]) -> Iterator[None]:
    """Inside, the encoder gives these samples' features instead of computing; it computes where some are missing."""
    found = [sample for sample in samples if sample is not None]
    with ExitStack() as stack:
        if found and len(found) == len(samples):
            for part, outputs in zip(encoder_parts(unet), zip(*found, strict=True), strict=True):
                stack.enter_context(_answering(part, _joined(outputs), len(samples)))
        yield


@contextmanager
def _answering(part: nn.Module, output: Any, batch: int) -> Iterator[None]:
    """`part` answers `output` to a batch of this size; its `forward` is as before afterwards."""
    before, compute = vars(part).get("forward"), part.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs["hidden_states"]
        return output if len(first) == batch else compute(*args, **kwargs)

    part.forward = forward
    try:
        yield
    finally:
        if before is None:
            del part.forward
        else:
            part.forward = before


def _split(output: Any) -> list[Any]:
    """A batch's output as one for each sample."""
    if isinstance(output, torch.Tensor):
        return list(output.split(1))
    return list(zip(*map(_split, output), strict=True))


def _joined(outputs: Sequence[Any]) -> Any:
    """The outputs of several samples as one for their batch."""
    if isinstance(outputs[0], torch.Tensor):
        return torch.cat(list(outputs))
    return tuple(_joined(each) for each in zip(*outputs, strict=True))
