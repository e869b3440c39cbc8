"""A GPU that is none: tensors that say they are on `cuda:0` and lie in the computer's memory.

Everything is computed by the CPU's kernels, so results are those of a CPU, to the bit. What a real GPU refuses is
refused: an operation on tensors of both devices, a CPU generator for random numbers there, `numpy()` without `cpu()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

GPU = torch.device("cuda", 0)
_aten = torch.ops.aten
_COPIES = {_aten.copy_, _aten._to_copy}
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_}  # a GPU's tensor, by one of the CPU; not the other way


class GpuTensor(torch.Tensor):
    """A tensor on the fake GPU. `inner` is the one that is computed with."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> GpuTensor:
        made: GpuTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="cpu", requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner.detach()
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"GpuTensor({self.inner!r})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What torch would decide by the device before anything is dispatched."""
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.numpy and isinstance(args[0], GpuTensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
        if func is torch.Tensor.cpu:
            return args[0].detach().inner.clone()
        if func is torch.Tensor.tolist:
            return args[0].detach().inner.tolist()
        if func is torch.Tensor.to:
            return _moved(*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _moved(tensor: torch.Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> torch.Tensor:
    """`tensor.to(...)`, where the tensor or the one whose device and dtype it shall have is on the GPU."""
    if args and isinstance(args[0], torch.Tensor):
        args = (args[0].device, args[0].dtype)
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
    if isinstance(tensor, GpuTensor) and device is not None and device.type != "cuda":
        return tensor.detach().inner.to(dtype or tensor.dtype, copy=True)
    moved = tensor if isinstance(tensor, GpuTensor) else tensor.to(GPU)
    with torch._C.DisableTorchFunctionSubclass():
        return moved.to(dtype or moved.dtype, copy=copy)


class _Mode(TorchDispatchMode):
    """Sees what has no tensor of the GPU among its arguments: what is made there, and what is brought there."""

    # With torch's own key for fake tensors no CUDA is looked for; without, torch would believe ever after to have one.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # type: ignore[assignment]

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    is_here = any(isinstance(each, GpuTensor) for each in tensors)
    strangers = [each for each in tensors if not isinstance(each, GpuTensor) and each.dim() > 0]
    is_allowed = func.overloadpacket in _COPIES or (func.overloadpacket in _INDEXING and isinstance(args[0], GpuTensor))
    if is_here and strangers and not is_allowed:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found cuda:0 and cpu.")
    # What autograd asks for, it asks for where it believes the tensors to be; `cpu()` and `to()` never come here.
    is_autograds = torch._C._current_graph_task_id() != -1 or (is_here and func is _aten._to_copy.default)
    if kwargs.get("device") is not None:
        is_here = is_autograds or torch.device(kwargs["device"]).type == "cuda"
        kwargs["device"] = torch.device("cpu")
    if is_here and isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    inner_args, inner_kwargs = tree_map_only(GpuTensor, lambda each: each.inner, (list(args), kwargs))
    result = func(*inner_args, **inner_kwargs)
    written = [
        args[place]
        for place, argument in enumerate(func._schema.arguments[: len(args)])
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if written and func._schema.returns and isinstance(result, torch.Tensor):
        return written[0]  # in place
    return tree_map_only(torch.Tensor, GpuTensor, result) if is_here else result


@contextmanager
def fake_gpu(*, free: int = 8 * 2**30) -> Iterator[None]:
    """Inside, `torch.device("cuda")` can be used and has `free` bytes."""
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *_: (7, 5),
        "get_device_name": lambda *_: "fake",
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
        "mem_get_info": lambda *_: (free, free),
        "empty_cache": lambda: None,
        "synchronize": lambda *_: None,
    }
    with pytest.MonkeyPatch.context() as patch, _Mode():
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, answer)
        patch.setattr(torch, "tensor", _tensor(torch.tensor))  # the real one looks for a driver
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # else `Module.to` changes no parameter's type
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)


def _tensor(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def tensor(data: Any, *, device: torch.device | str | None = None, **particulars: Any) -> torch.Tensor:
        made = make(data, **particulars)
        return made if device is None else made.to(device)

    return tensor
