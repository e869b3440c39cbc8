"""The LoRAs of one prompt, attached by hooks on the UNet: before each call its timesteps say which of them act.

With `composite` one call becomes one pass for each LoRA, in which it acts alone, and the output is the mean of theirs.
The host's forward is not replaced: further passes are whole calls of the UNet with the same arguments, made before the
host's own. They need no more memory than one call, and all hooks that the host has on the UNet act in each of them.

Zhong et al. 2024 take the mean of the guided predictions u + s * (c - u). That is linear in u and c, so the means of
the unguided and of the conditional predictions, guided by the host afterwards, are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lib_addift.hosts.prompt_tag.syntax import COMPOSITE, MERGE, SWITCH, Composition, Tag
from lib_addift.lora.network import LoraNetwork

_ROUNDING = 0.01  # timesteps nearer than this are the same: samplers compute them in different ways

Share = float | torch.Tensor  # of the mean; a tensor (B,) where samples differ


def parts_of(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Those tensors of a LoRA file that are for the UNet, and those that are for the text encoder."""
    text = {key: value for key, value in tensors.items() if key.startswith("lora_te")}
    return {key: value for key, value in tensors.items() if key not in text}, text


class StepCounter:
    """Counts sampling steps by the timesteps of the UNet's calls.

    A smaller timestep is the next step, and a larger one the first step of another pass through the timesteps. Calls at
    one timestep (the conditional one and the other) are one step.
    """

    def __init__(self) -> None:
        self._step, self._last = 0, 0.0

    def __call__(self, timestep: float) -> int:
        if timestep > self._last + _ROUNDING:
            self._step = 0
        elif timestep < self._last - _ROUNDING:
            self._step += 1
        self._last = timestep
        return self._step


@dataclass(frozen=True)
class PromptLora:
    """A LoRA and its tag."""

    network: LoraNetwork
    tag: Tag

    def weights(self, timesteps: Sequence[float]) -> list[float]:
        """Its weight in each sample, given the timestep of each."""
        tag = self.tag
        return [tag.unet_weight if tag.low <= timestep <= tag.high else 0.0 for timestep in timesteps]


Acting = list[tuple[PromptLora, list[float]]]  # LoRAs that act in one pass, with their weights for each sample


@dataclass(frozen=True)
class Pass:
    """One run of the UNet within a call, and its share of the answer."""

    acting: Acting
    share: Share = 1.0


class PromptLoras:
    """Attaches the LoRAs of a prompt. `step` maps a call's timestep to the number of the sampling step."""

    def __init__(
        self, loras: Sequence[PromptLora], composition: Composition, step: Callable[[float], int] | None = None
    ) -> None:
        self._loras, self._composition = list(loras), composition
        self._step = step or StepCounter()
        self._attached = ExitStack()  # the LoRAs that act in the host's own pass
        self._parts: list[tuple[Any, Share]] = []  # outputs of the further passes
        self._share: Share = 1.0  # of the host's own pass
        self._is_further_pass = False

    @contextmanager
    def attach(self, unet: nn.Module) -> Iterator[None]:
        """Inside the block the LoRAs act in the calls of `unet`; afterwards it is restored, also after an error."""
        # Before all other hooks: the further passes must get the arguments as the host gives them.
        before = unet.register_forward_pre_hook(self._before, prepend=True, with_kwargs=True)
        after = unet.register_forward_hook(self._after)
        try:
            yield
        finally:
            before.remove()
            after.remove()
            self._end_call()

    def _before(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_further_pass:
            return
        self._end_call()  # the one before may have failed
        timesteps = args[1] if len(args) > 1 else kwargs["timesteps"]  # (B,), may have fractions
        *further, last = self._passes(timesteps.flatten().tolist())
        for each in further:
            with ExitStack() as attached:
                _attach(each.acting, args[0].device, attached)
                self._parts.append((self._call(unet, args, kwargs), each.share))
        _attach(last.acting, args[0].device, self._attached)
        self._share = last.share

    def _call(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A further pass, which leaves the arguments as they are."""
        self._is_further_pass = True
        try:
            return unet(*map(_copied, args), **{key: _copied(value) for key, value in kwargs.items()})
        finally:
            self._is_further_pass = False

    def _after(self, _unet: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if self._is_further_pass:
            return None
        parts = [*self._parts, (output, self._share)]
        self._end_call()
        return _weighted_sum(parts) if len(parts) > 1 else None

    def _end_call(self) -> None:
        self._attached.close()
        self._parts.clear()

    def _passes(self, timesteps: list[float]) -> list[Pass]:
        """The passes of a call with these timesteps (one per sample), the host's own last."""
        mode, every = self._composition.mode, self._composition.every
        step = self._step(max(timesteps))
        always: Acting = []
        members: Acting = []
        for lora in self._loras:
            weights = lora.weights(timesteps)
            if any(weights):
                (always if lora.tag.mode == MERGE else members).append((lora, weights))
        if mode == COMPOSITE and members:
            shares = _shares([weights for _lora, weights in members])
            return [Pass([*always, member], share) for member, share in zip(members, shares, strict=True)]
        if mode == SWITCH and members:
            members = [members[step // every % len(members)]]
        return [Pass([*always, *members])]


def _shares(weights: Sequence[Sequence[float]]) -> list[Share]:
    """The share of each pass in the mean. In a sample those count whose LoRA acts there, all where none does."""
    counts = [sum(weight != 0 for weight in sample) for sample in zip(*weights, strict=True)]
    return [
        _one_or_each([
            (weight != 0) / count if count else 1 / len(weights) for weight, count in zip(each, counts, strict=True)
        ])
        for each in weights
    ]  # fmt: skip


def _one_or_each(values: list[float]) -> Share:
    """One number where all are equal: with some patches (hypertile) the layers see more samples than the UNet."""
    return values[0] if len(set(values)) == 1 else torch.tensor(values)


def _attach(acting: Acting, device: torch.device, attached: ExitStack) -> None:
    for lora, weights in acting:
        lora.network.to(device)  # the model may have been in main memory when the LoRA was made
        lora.network.multiplier = _one_or_each(weights)
        attached.enter_context(lora.network.attach())


def _copied(argument: Any) -> Any:
    """A copy of a mapping and of the lists in it: Forge's UNet takes ControlNet's residuals out of theirs."""
    if not isinstance(argument, dict):
        return argument
    return {key: list(value) if isinstance(value, list) else value for key, value in argument.items()}


def _weighted_sum(parts: Sequence[tuple[Any, Share]]) -> Any:
    """sum_k share_k * output_k, each (B, 4, h, w), in float32 and back."""
    first = parts[0][0]
    if not isinstance(first, torch.Tensor):  # diffusers' UNet answers with an object
        return dataclasses.replace(first, sample=_weighted_sum([(output.sample, share) for output, share in parts]))
    total = torch.zeros_like(first, dtype=torch.float32)
    for output, share in parts:
        factor = share
        if isinstance(factor, torch.Tensor):
            factor = factor.to(output.device).view(-1, *[1] * (output.ndim - 1))
        total = total + output.float() * factor
    return total.to(first.dtype)
