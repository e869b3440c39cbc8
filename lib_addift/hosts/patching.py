"""Patches that make a WebUI's model usable for training, and restore it. They work on any torch module.

Each function is a context manager that restores the module on exit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_IN_PLACE_BLOCK = "BasicTransformerBlock"  # its residual sums are `x += n` in the Forge family


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of `module` gets a gradient inside the block. Afterwards its flags and gradients are restored.

    Parameters that have become inference tensors meanwhile are left as they are.
    """
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    try:
        for parameter, *_ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag, grad in before:
            if not parameter.is_inference():
                parameter.requires_grad_(flag)
                parameter.grad = grad


@contextmanager
def without_inference_tensors(module: nn.Module) -> Iterator[None]:
    """Ordinary tensors over the same memory replace inference tensors, which autograd cannot save for backward.

    Nothing is copied. Enter and leave it outside of `torch.inference_mode()`, and do not move the module inside.
    """
    with _replaced_tensors(module, torch.Tensor.is_inference):
        yield


@contextmanager
def staying_in_place(module: nn.Module) -> Iterator[None]:
    """The weights that autograd saves inside the block stay on their device, even if the module is moved afterwards.

    Moving a module changes the memory of its parameters, which autograd has saved; so inside the block other tensors
    over the same memory replace them.
    """
    with _replaced_tensors(module, lambda _tensor: True):
        yield


@contextmanager
def _replaced_tensors(module: nn.Module, is_meant: Callable[[torch.Tensor], bool]) -> Iterator[None]:
    """Other tensors over the same memory replace the parameters and buffers for which `is_meant` is true."""
    replaced: list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor]] = []
    try:
        with torch.inference_mode(False), torch.no_grad():
            for part in module.modules():
                for table in (part._parameters, part._buffers):
                    for name, tensor in list(table.items()):
                        if tensor is not None and is_meant(tensor) and type(tensor) in (nn.Parameter, torch.Tensor):
                            replaced.append((table, name, tensor))  # type: ignore[arg-type]
                            table[name] = _over_the_same_memory(tensor)  # type: ignore[assignment]
        yield
    finally:
        for table, name, tensor in replaced:
            table[name] = tensor


def _over_the_same_memory(tensor: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor, a frozen Parameter if `tensor` is one, that shares the memory of another."""
    plain = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    plain.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return nn.Parameter(plain, requires_grad=False) if isinstance(tensor, nn.Parameter) else plain


@contextmanager
def safe_residual_sums(unet: nn.Module) -> Iterator[None]:
    """The norms of a transformer block read a copy: the block adds to their input in place, which breaks backward."""
    handles = []
    try:
        for part in unet.modules():
            if type(part).__name__ == _IN_PLACE_BLOCK:
                for name in ("norm1", "norm2"):
                    handles.append(part.get_submodule(name).register_forward_pre_hook(_copy_input))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _copy_input(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (args[0].clone(), *args[1:]) if torch.is_grad_enabled() else args


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """The attribute is `value` inside the block."""
    before = getattr(owner, name)
    try:
        setattr(owner, name, value)
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def in_fp32(module: nn.Module) -> Iterator[None]:
    """`module` in fp32 inside the block. Going back to fp16 or bf16 is exact: no weight changes in between.

    Raises ValueError when its parameters are of several types.
    """
    dtypes = {parameter.dtype for parameter in module.parameters()}
    if dtypes == {torch.float32}:
        yield
        return
    (dtype,) = dtypes  # no WebUI loads a VAE of mixed types
    try:
        module.float()
        yield
    finally:
        module.to(dtype)
