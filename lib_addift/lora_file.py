"""LoRA files: how they may be called, what is written into and beside them, and how they are read back.

A LoRA called NAME is three files in the WebUI's LoRA folder: NAME.safetensors, NAME.json (what the WebUI's card says) and
NAME.png (the card's picture).
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from lib_addift.atomic import replace_files, temporary_name
from lib_addift.config import TrainConfig
from lib_addift.errors import LoraFileError
from lib_addift.lora import layer_kind

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"

_LONGEST_NAME = 100  # characters
_LONGEST_FILE_NAME = 240  # bytes; file systems allow 255
_FREE_SPACE = 64 * 2**20  # bytes: several times the largest LoRA of an SD1.x model at ordinary ranks

_NAME_RULES = {  # what a name may not match: why not and what to do
    r"\A\s*\Z": "is empty: type a name",
    r"[<>:\"/\\|?*,=]": "has one of the characters < > : \" / \\ | ? * , = which a file name or a prompt cannot hold: leave it out",
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]": "has an invisible control character: type it anew",
    r"\A[.\s]|[.\s]\Z": "begins or ends with a dot or a space: leave that out",
    r"(?i)\A(con|prn|aux|nul|conin\$|conout\$|com[\d¹²³]|lpt[\d¹²³])\s*(\.|\Z)": "is reserved by Windows: choose another one",
    r"(?i)\.safetensors\Z": "ends in .safetensors, which is added to it: leave that out",
}
_TAKING_SUFFIXES = {".safetensors", ".pt", ".ckpt", ".png", ".json"}  # NAME with one of these is in the way of a new NAME

_CARD = {"description": "", "sd version": "SD1", "activation text": "", "preferred weight": 1.0, "negative text": "", "notes": ""}
_BASE_MODELS = {768: "SD1", 1024: "SD2", 2048: "SDXL"}  # by the width of the text condition
_PLAIN_NAMES = {
    "modelspec.title": "Title",
    "ss_sd_model_name": "Trained on",
    "ss_new_sd_model_hash": "Its sha256",
    "ss_training_comment": "Method",
    "ss_resolution": "Resolution",
    "ss_steps": "Steps",
    "ss_learning_rate": "Learning rate",
    "ss_optimizer": "Optimizer",
    "ss_seed": "Seed",
}  # fmt: skip


def check_name(name: str) -> str:
    """`name`, if it can be both a file's stem on every system and NAME in `<lora:NAME:1>`. Raises LoraFileError."""
    for pattern, problem in _NAME_RULES.items():
        if re.search(pattern, name):
            raise LoraFileError(f"the LoRA's name {name[:_LONGEST_NAME]!r} {problem}.")
    size = len(f"{name}.safetensors".encode())
    if len(name) > _LONGEST_NAME or size > _LONGEST_FILE_NAME:
        raise LoraFileError(
            f"the LoRA's name '{name[:20]}...' has {len(name)} characters, which make a file name of {size} bytes: "
            f"use at most {_LONGEST_NAME} characters and {_LONGEST_FILE_NAME} bytes."
        )
    return name


def lora_path(lora_dir: Path, name: str, overwrite: bool) -> Path:
    """Where a LoRA called `name` goes, once it is sure that it can: asked before any work starts. Makes the folder.

    Raises LoraFileError when the name is bad or taken (also in other case: Windows sees no difference), or when the folder
    cannot be made, cannot be written to or has too little room.
    """
    path = lora_dir / f"{check_name(name)}.safetensors"
    try:
        lora_dir.mkdir(parents=True, exist_ok=True)
        trial = temporary_name(path)
        trial.touch(exist_ok=False)
        trial.unlink()
        free = shutil.disk_usage(lora_dir).free
        neighbours = sorted(lora_dir.iterdir())
    except OSError as error:
        raise _cannot_write(path, error) from error
    if free < _FREE_SPACE:
        raise LoraFileError(
            f"the disk of '{lora_dir}' has {free / 2**20:.0f} MB free and a LoRA may need {_FREE_SPACE / 2**20:.0f} MB: make room."
        )
    taken = [p.name for p in neighbours if p.stem.casefold() == name.casefold() and p.suffix.lower() in _TAKING_SUFFIXES]
    if taken and not overwrite:
        raise LoraFileError(f"the name '{name}' is taken by '{taken[0]}' in '{lora_dir}': choose another one or allow overwriting.")
    return path


def save_lora(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    *,
    precision: str = "fp16",
    preview: Image.Image | None = None,
    notes: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a LoRA (kohya keys) to `path` (see `lora_path`), its card beside it and, if given, the card's picture.

    `precision` is fp16, bf16 or fp32. `notes` are fields of the card that differ from what `metadata` says, for example
    {"activation text": "closed eyes"}. Same tensors and metadata, same bytes. The LoRA is moved into place last, so that
    a crash leaves the old one or the new one, whole. Raises LoraFileError when the values or the disk do not allow it.
    """
    if path.suffix != ".safetensors":
        raise LoraFileError(f"'{path.name}' does not end in .safetensors: name the LoRA so.")
    if path.exists() and not overwrite:
        raise LoraFileError(f"'{path}' exists already: choose another name or allow overwriting.")
    ready = _ready_to_save(tensors, precision)
    contents = {}
    if preview is not None:
        png = io.BytesIO()
        preview.convert("RGB").save(png, "PNG")
        contents[path.with_suffix(".png")] = png.getvalue()
    card = {**_CARD, "description": metadata.get("modelspec.description", ""), "notes": "\n".join(_plain_words(metadata)), **(notes or {})}
    contents[path.with_suffix(".json")] = json.dumps(card, indent=4).encode("ascii")
    contents[path] = _file_bytes(ready, _with_hashes(ready, metadata))
    try:
        replace_files(contents)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def _cannot_write(path: Path, error: OSError) -> LoraFileError:
    if error.errno == errno.ENOSPC:
        return LoraFileError(f"the disk of '{path.parent}' is full: make room and save '{path.stem}' again.")
    reason = error.strerror or str(error)
    return LoraFileError(f"'{path}' cannot be written ({reason}): choose a folder that may be written to, or free the file.")


def _ready_to_save(tensors: Mapping[str, torch.Tensor], precision: str) -> dict[str, torch.Tensor]:
    """Contiguous copies on the CPU in the file's number format; alpha in float32, since every reader takes its value.

    Raises LoraFileError for numbers that are not finite, here or in the file, and for a LoRA that does nothing.
    """
    if precision not in _DTYPES:
        raise LoraFileError(f"file precision '{precision}' does not exist: use one of {', '.join(_DTYPES)}.")
    ready = {}
    for key, tensor in sorted(tensors.items()):
        if not tensor.isfinite().all():
            raise LoraFileError(f"'{key}' holds values that are no finite numbers: training has diverged, use a lower learning rate.")
        dtype = torch.float32 if key.endswith(_ALPHA) else _DTYPES[precision]
        ready[key] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        if not ready[key].isfinite().all():
            raise LoraFileError(f"'{key}' holds values up to {tensor.abs().max():.3g}, too large for {precision}: save it as fp32.")
    idle = {_layer(key) for key, tensor in ready.items() if not tensor.any()}
    if idle.issuperset(map(_layer, ready)):
        raise LoraFileError("the LoRA does nothing, each of its layers multiplies by zero: train with more steps or a higher rate.")
    return ready


def _layer(key: str) -> str:
    return key.split(".")[0]


def _file_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: 8 bytes with the header's length, the JSON header padded with spaces to 8, the tensors' data.

    The library writes metadata in random order, so its header is replaced by a sorted one.
    """
    data = safetensors.torch.save(dict(tensors), dict(metadata))
    start = _data_start(data)
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[start:]


def _data_start(file: bytes) -> int:
    return 8 + int.from_bytes(file[:8], "little")


def _data_hash(file: bytes) -> str:
    """sha256 of what follows the header: A1111's hash of a LoRA, and with 12 digits Civitai's AutoV3."""
    return hashlib.sha256(file[_data_start(file) :]).hexdigest()


def _with_hashes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`metadata` with the two hashes that belong to the tensors, taken of a file with training metadata only.

    Source: kohya-ss/sd-scripts, train_util.precalculate_safetensors_hashes, whose legacy hash sees 64 KB at 1 MB.
    """
    kept = {key: value for key, value in metadata.items() if not key.startswith("sshs_")}
    file = _file_bytes(tensors, {key: value for key, value in kept.items() if key.startswith("ss_")})
    legacy = hashlib.sha256(file[0x100000:0x110000]).hexdigest()[:8]
    return {**kept, "sshs_model_hash": _data_hash(file), "sshs_legacy_hash": legacy}
