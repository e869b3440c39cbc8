"""LoRA files: the rules of their names, writing and reading.

A LoRA called NAME is up to three files in the WebUI's LoRA folder: NAME.safetensors, and for its card in the WebUI
NAME.json (description and notes) and NAME.png (the picture).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from lib_addift.config.settings import SAVE_PRECISIONS
from lib_addift.dtypes import DTYPES
from lib_addift.errors import LoraFileError, printable
from lib_addift.files import name_key, png_bytes, replace_files, temporary_name
from lib_addift.lora.description import describe_faults, describe_run, describe_tensors, loading_notes
from lib_addift.lora.metadata import build_metadata
from lib_addift.lora.soundness import BROKEN, check_finite, check_tensors
from lib_addift.lora.state_dict import ALPHA, DORA, by_layer, has_weights, is_whole, layer_name

__all__ = ["build_metadata", "check_name", "describe", "lora_path", "put_lora", "read_lora", "save_lora"]

_log = logging.getLogger(__name__)

_LONGEST_NAME = 100  # characters
_LONGEST_FILE_NAME = 240  # bytes; file systems allow 255
_FREE_SPACE = 64 * 2**20  # bytes: more than a LoRA of ordinary rank takes while it is written

# Patterns of what a name must not hold or be.
FORBIDDEN = r'[<>:"/\\|?*,=]'
INVISIBLE = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
RESERVED = r"(?i)\A(con|prn|aux|nul|(com|lpt)[\d¹²³]|con(in|out)\$)\s*(\.|\Z)"  # by Windows, with any ending
_NAME_RULES = {  # what a name must not match: why, and what to do
    r"\A\s*\Z": "is empty: type a name",
    FORBIDDEN: 'has one of < > : " / \\ | ? * , = which file names or prompts cannot hold: leave it out',
    INVISIBLE: "has an invisible control character: type it anew",
    r"\A[.\s]|[.\s]\Z": "begins or ends with a dot or a space: leave that out",
    RESERVED: "is reserved by Windows: choose another",
    r"(?i)\.safetensors\Z": "ends in .safetensors, which is added to it: leave that out",
}
LORA_SUFFIXES = (".safetensors", ".pt", ".ckpt")
# A file with NAME and one of these would be overwritten or would answer to the same tag.
_TAKING_SUFFIXES = (*LORA_SUFFIXES, ".png", ".json")


def check_name(name: str) -> str:
    """`name`, if it is valid as a file's stem on every system and in `<lora:NAME:1>`. Raises LoraFileError."""
    for pattern, problem in _NAME_RULES.items():
        if re.search(pattern, name):
            raise LoraFileError(f"the LoRA's name {name[:_LONGEST_NAME]!r} {problem}.")
    size = len(f"{name}.safetensors".encode())
    if len(name) > _LONGEST_NAME or size > _LONGEST_FILE_NAME:
        raise LoraFileError(
            f"the LoRA's name '{name[:20]}...' has {len(name)} characters, and its file's name {size} bytes: "
            f"use at most {_LONGEST_NAME} characters and {_LONGEST_FILE_NAME} bytes."
        )
    return name


def lora_path(lora_dir: Path, name: str, overwrite: bool) -> Path:
    """The path at which to save a LoRA called `name`; call it before any work starts. Creates the folder.

    Raises LoraFileError when the name is bad or taken (in capitals or not: to Windows they are the same), or when the
    folder cannot be made, cannot be written to or has too little room.
    """
    path = lora_dir / f"{check_name(name)}.safetensors"
    try:
        lora_dir.mkdir(parents=True, exist_ok=True)
        trial = temporary_name(path)
        trial.touch(exist_ok=False)
        trial.unlink()
        free = shutil.disk_usage(lora_dir).free
        neighbours = sorted(lora_dir.iterdir())
    except (FileExistsError, NotADirectoryError) as error:
        raise LoraFileError(f"'{lora_dir}' is a file or lies in one: choose a folder.") from error
    except OSError as error:
        raise _cannot_write(path, error) from error
    if free < _FREE_SPACE:
        needed = f"{free >> 20} MB free and {_FREE_SPACE >> 20} MB are needed"
        raise LoraFileError(f"the disk of '{lora_dir}' has {needed}: make room.")
    same_name = [file for file in neighbours if name_key(file.stem) == name_key(name)]
    taking = [file for file in same_name if file.suffix.lower() in _TAKING_SUFFIXES]
    if taking and not overwrite:
        first = min(taking, key=lambda file: _TAKING_SUFFIXES.index(file.suffix.lower()))
        raise LoraFileError(f"'{lora_dir}' already has '{first.name}': choose another name or allow overwriting.")
    return path


def save_lora(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    *,
    precision: str = "fp16",
    preview: Image.Image | None = None,
    card_versions: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a LoRA (kohya keys) to `path` (see `lora_path`), its card beside it and, if given, the card's picture.

    `precision` is fp16, bf16 or fp32; `card_versions` are the WebUI's words for base models on the card, where
    they are not SD1, SD2 and SDXL (see `Host`).
    Same tensors and metadata, same bytes. The LoRA is moved into place last: a crash leaves the old one or the new one,
    whole. Raises LoraFileError when the values, the disk or the folder do not allow it.
    """
    if path.suffix != ".safetensors":
        raise LoraFileError(f"'{path.name}' does not end in .safetensors: name the LoRA so.")
    ready = _ready_to_save(tensors, precision)
    for note in loading_notes(ready):
        _log.warning("'%s': %s", path.name, note)
    card = json.dumps(_card(metadata, ready, card_versions or {}), indent=4)
    contents = {path.with_suffix(".json"): card.encode("ascii")}
    if preview is not None:
        contents[path.with_suffix(".png")] = png_bytes(preview.convert("RGB"))
    contents[path] = _file_bytes(ready, _with_hashes(ready, metadata))
    return put_lora(path, contents, overwrite=overwrite)


def put_lora(path: Path, contents: Mapping[Path, bytes], *, overwrite: bool) -> Path:
    """Move a LoRA's files, of which `path` is the last, into place. Raises LoraFileError when that cannot be done."""
    taken = next((file for file in contents if file.exists()), None)
    if taken and not overwrite:
        raise LoraFileError(f"'{taken}' exists already: choose another name or allow overwriting.")
    try:
        replace_files(contents)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def _cannot_write(path: Path, error: OSError) -> LoraFileError:
    if error.errno == errno.ENOSPC:
        return LoraFileError(f"the disk of '{path.parent}' is full: make room and save '{path.stem}' again.")
    reason = error.strerror or str(error)
    return LoraFileError(f"'{path}' cannot be written ({reason}): choose another folder, or close what uses the file.")


def _card(
    metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor], versions: Mapping[str, str]
) -> dict[str, object]:
    """The fields that A1111 and Forge read from NAME.json. Source: their ui_edit_user_metadata.py."""
    base = _base_model(metadata)
    return {
        "description": metadata.get("modelspec.description", ""),
        "sd version": versions.get(base, base),
        "activation text": "",
        "preferred weight": 1.0,
        "negative text": "",
        "notes": "\n".join([*loading_notes(tensors), *describe_run(metadata)]),
    }


def _base_model(metadata: Mapping[str, str]) -> str:
    """'SD1', 'SD2' or 'SDXL', after kohya's field, which has words such as 'sd_v2_v' and 'sdxl_base_v1-0'."""
    known = metadata.get("ss_base_model_version", "").lower().replace("_v", "")
    return next((base for base in ("SDXL", "SD2") if known.startswith(base.lower())), "SD1")


def _ready_to_save(tensors: Mapping[str, torch.Tensor], precision: str) -> dict[str, torch.Tensor]:
    """Copies on the CPU in the file's number format; alpha and DoRA's norms in float32.

    Readers accept alpha in any format. DoRA's norms stay in float32, since the rounding of a norm in half precision is
    large beside the change that the LoRA makes.
    Raises LoraFileError for numbers that are not finite, here or in the file, and for a LoRA that does nothing.
    """
    if precision not in SAVE_PRECISIONS:
        raise LoraFileError(f"file precision '{precision}' does not exist: use one of {', '.join(SAVE_PRECISIONS)}.")
    ready = {}
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise LoraFileError(f"'{key}' is not finite, so training has diverged: use a lower learning rate.")
        dtype = torch.float32 if key.endswith((ALPHA, DORA)) else DTYPES[precision]
        ready[key] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        if not ready[key].isfinite().all():
            largest = tensor.abs().max()
            raise LoraFileError(f"'{key}' reaches {largest:.3g}, which {precision} cannot hold: save it as fp32.")
    # A layer with one zero factor changes nothing, unless DoRA's norms do.
    idle = {layer_name(key) for key, tensor in ready.items() if not tensor.any()}
    if not any(key.endswith(DORA) for key in ready) and idle.issuperset(map(layer_name, ready)):
        raise LoraFileError("the LoRA does nothing, all its layers are zero: train it longer or at a higher rate.")
    return ready


def _file_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: 8 bytes with the header's length, the JSON header padded with spaces to 8, the tensors' data.

    The library writes metadata in random order, so its header is replaced by a sorted one.
    """
    file = safetensors.torch.save(dict(tensors), dict(metadata))
    start = _data_start(file)
    header = json.dumps(json.loads(file[8:start]), sort_keys=True, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[start:]


def _data_start(file: bytes) -> int:
    return 8 + int.from_bytes(file[:8], "little")


def _data_hash(file: bytes) -> str:
    """sha256 of what follows the header: A1111's hash of a LoRA, and cut to 12 digits Civitai's AutoV3."""
    return hashlib.sha256(file[_data_start(file) :]).hexdigest()


def _with_hashes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`metadata` with the hashes that belong to these tensors, taken from a file that holds training metadata only.

    Source: precalculate_safetensors_hashes in kohya-ss/sd-scripts; its legacy hash sees 64 KB from 1 MB on.
    """
    kept = {key: value for key, value in metadata.items() if not key.startswith("sshs_")}
    file = _file_bytes(tensors, {key: value for key, value in kept.items() if key.startswith("ss_")})
    legacy = hashlib.sha256(file[0x100000:0x110000]).hexdigest()[:8]
    return {**kept, "sshs_model_hash": _data_hash(file), "sshs_legacy_hash": legacy}


def read_lora(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A LoRA file's tensors, on the CPU and as they are stored, and its metadata. Raises LoraFileError."""
    tensors, metadata = _read(path)
    check_finite(tensors)
    return tensors, metadata


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """As `read_lora`, of a LoRA whose numbers may be anything."""
    try:
        with safe_open(path, "pt") as file:
            _check_is_lora(path, list(file.keys()))
            # Copies: the file's own tensors would keep it open, and Windows does not replace an open file.
            tensors = {key: file.get_tensor(key).clone() for key in sorted(file.keys())}
            metadata = file.metadata() or {}
        check_tensors(tensors)
    except FileNotFoundError:
        raise LoraFileError(f"'{path}' does not exist: check the folder and the name.") from None
    except (SafetensorError, *BROKEN) as error:
        raise LoraFileError(f"'{path}' is no whole safetensors file ({error}): get or train it again.") from error
    return tensors, metadata


def _check_is_lora(path: Path, keys: Collection[str]) -> None:
    layers = {name: parts for name, parts in by_layer(keys).items() if has_weights(parts)}
    if not layers:
        example = min(keys, default="none at all")
        raise LoraFileError(
            f"'{path}' is a checkpoint or another kind of network, with tensors such as '{example}': "
            "choose a LoRA with kohya's names."
        )
    half = min((name for name, parts in layers.items() if not is_whole(parts)), default=None)
    if half is not None:
        there = ", ".join(sorted(layers[half]))
        raise LoraFileError(f"'{path}' has only half of layer '{half}' ({there}): get or train it again.")


def describe(path: Path) -> str:
    """A plain-text description of any trainer's LoRA file, each line printable. Raises LoraFileError."""
    tensors, metadata = _read(path)
    file = path.read_bytes()
    lines = [
        f"{path.name}: LoRA of {len(file) / 2**20:.2f} MB",
        *describe_tensors(tensors, metadata),
        *describe_faults(tensors),
        *loading_notes(tensors),
        f"Hash of the tensors (AutoV3): {_data_hash(file)[:12]}",
        f"Hash of the file (AutoV2): {hashlib.sha256(file).hexdigest()[:10]}",
        *describe_run(metadata),
    ]
    return "\n".join(map(printable, lines))
