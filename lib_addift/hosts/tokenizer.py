"""CLIP's tokenizer without a hub: the vocabulary is a file of the installed package open_clip_torch."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lib_addift.errors import HostError

_MERGES = 49152 - 256 - 2  # CLIP uses this many of the file's merge rules


def _vocabulary_file() -> Path:
    spec = importlib.util.find_spec("open_clip")  # finds the folder without importing the package
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if path.is_file():
            return path
    raise HostError(
        "CLIP's vocabulary was not found: it is read from the package open_clip_torch. "
        "Install it with 'pip install --no-deps open_clip_torch', or run 'python3 install.py demo', which does."
    )


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in vocabulary order. Source: Radford et al. 2019."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = len([b for b in range(256) if b not in printable])
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(hidden)]


def load_tokenizer() -> Callable[[Sequence[str]], torch.Tensor]:
    """A function from texts to token ids: (B, 77) long, cut or padded with the end token as SD1.x does."""
    from transformers import CLIPTokenizer

    lines = gzip.decompress(_vocabulary_file().read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : _MERGES + 1]]
    characters = _byte_characters()
    words = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=merges)

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        encoded = tokenizer(list(texts), padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        ids: torch.Tensor = encoded.input_ids
        return ids

    return tokenize
