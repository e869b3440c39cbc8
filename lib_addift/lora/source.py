"""LoRA files of any trainer, read one layer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lib_addift.errors import LoraFileError
from lib_addift.files import sha256_of
from lib_addift.lora.soundness import BROKEN, check_layer
from lib_addift.lora.state_dict import by_layer

_PREFIXES = ("lora_unet_", "lora_te")


class FileSource:
    """An open LoRA file; see `open_lora`."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.title = path, path.name
        self.metadata: Mapping[str, str] = file.metadata() or {}
        self._file = file
        keys = sorted(file.keys())
        self._keys = by_layer(keys)
        strange = next((key for key in keys if not key.startswith(_PREFIXES)), None)
        if strange is not None or not self._keys:
            raise LoraFileError(
                f"'{path}' is a checkpoint or another kind of network, with tensors such as "
                f"'{strange or 'none at all'}': choose a LoRA with kohya's names."
            )

    @property
    def layers(self) -> Sequence[str]:
        return list(self._keys)

    def tensors(self, layer: str) -> dict[str, torch.Tensor]:
        """Copies, for the file's own tensors would keep it open, and Windows does not replace an open file.

        Raises LoraFileError.
        """
        try:
            parts = {part: self._file.get_tensor(key).clone() for part, key in self._keys[layer].items()}
        except (SafetensorError, *BROKEN) as error:
            raise _broken(self.path, error) from error
        check_layer(layer, parts)
        return parts


@contextmanager
def open_lora(path: Path) -> Iterator[FileSource]:
    """A LoRA file from which layers can be read inside the block. Raises LoraFileError."""
    if not path.is_file():
        raise LoraFileError(f"'{path}' is no file: check the folder and the name.")
    try:
        file = safe_open(path, "pt")
    except (SafetensorError, *BROKEN) as error:
        raise _broken(path, error) from error
    with file:
        yield FileSource(path, file)


def _broken(path: Path, error: Exception) -> LoraFileError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return LoraFileError(f"'{path}' is no whole safetensors file ({reason}): get or train it again.")


def file_hash(path: Path) -> str:
    """The sha256 of a LoRA file's bytes, hex. Raises LoraFileError when it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise LoraFileError(f"'{path}' cannot be read ({error.strerror or error}): check the path.") from error
