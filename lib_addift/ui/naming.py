"""Names of LoRAs in the form: which are taken, and which is the next free one. No gradio."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from lib_addift.errors import LoraFileError
from lib_addift.lora.file import LORA_SUFFIXES, check_name

NAMELESS = "give the LoRA a name: it is what you type in prompts."


def is_taken(folder: Path, name: str) -> bool:
    """Whether a LoRA of this name is in the folder."""
    try:
        return bool(name) and any((folder / f"{check_name(name)}{suffix}").exists() for suffix in LORA_SUFFIXES)
    except (LoraFileError, OSError):
        return False


def next_free(folder: Path, name: str) -> str:
    """The name, or the first free one of name_2, name_3 and so on."""
    if not is_taken(folder, name):
        return name
    stem = re.sub(r"_\d+\Z", "", name)
    return next(free for number in itertools.count(2) if not is_taken(folder, free := f"{stem}_{number}"))


def check(name: str) -> None:
    """Raises LoraFileError for a name that no LoRA can have."""
    if not name:
        raise LoraFileError(NAMELESS)
    check_name(name)


def check_free(folder: Path, name: str, *, overwrite: bool) -> None:
    """Raises LoraFileError for a name that is taken, unless it may be overwritten."""
    if not overwrite and is_taken(folder, name):
        raise LoraFileError(f"a LoRA called '{name}' exists already: allow overwriting it, or choose another name.")
