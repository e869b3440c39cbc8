"""A saved training as bytes: its tensors as safetensors, all else as JSON in the header.

Not by `torch.save`: A1111 puts a reader of its own in the place of `torch.load`, for checkpoints of models only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from lib_addift.training.events import ResumeState

_HEADER = "checkpoint"


def resume_bytes(resume_state: ResumeState) -> bytes:
    """What `read_resume_state` reads."""
    tensors: dict[str, torch.Tensor] = {}
    state = _packed(resume_state.state, tensors)
    header = {"step": resume_state.step, "train_seconds": resume_state.train_seconds, "learner": state}
    return safetensors.torch.save(tensors, {_HEADER: json.dumps(header)})


def read_resume_state(data: bytes) -> ResumeState:
    """The resume state, tuples as lists. Raises ValueError when `data` is no whole one."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEADER])
        return ResumeState(header["step"], header["train_seconds"], _unpacked(header["learner"], tensors))
    except (SafetensorError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON, in which every tensor is the name that it has in `tensors`."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):  # as a list: JSON would make text of an optimizer's numbered keys
        return {"items": [[key, _packed(each, tensors)] for key, each in value.items()]}
    return [_packed(each, tensors) for each in value] if isinstance(value, (list, tuple)) else value


def _unpacked(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpacked(each, tensors) for key, each in value["items"]}
    return [_unpacked(each, tensors) for each in value] if isinstance(value, list) else value
