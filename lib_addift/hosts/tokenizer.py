"""CLIP's tokenizer without a hub: the vocabulary is a file of the installed package open_clip_torch."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lib_addift.errors import HostError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK = 75  # tokens that the text model reads at a time, between one that starts and one that ends them
_BACKTRACK = 20  # of them at most go over to the next chunk: A1111's "Prompt word wrap length limit"
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


def read_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's 49408 words with their numbers, and the rules by which bytes are merged into words, in order."""
    lines = gzip.decompress(_vocabulary_file().read_bytes()).decode("utf-8").split("\n")
    merges = [(first, second) for first, second in (line.split() for line in lines[1 : _MERGES + 1])]
    characters = _byte_characters()
    words = [*characters, *(c + "</w>" for c in characters), *(first + second for first, second in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}, merges


def load_tokenizer(padding: int | None = None) -> Callable[[Sequence[str]], torch.Tensor]:
    """A function from texts to token ids: (B, chunks, 77) long.

    `padding` is the token behind the one that ends a text; without it, it is that one again.
    Texts that need fewer chunks than another one get empty chunks behind theirs, as in A1111.
    """
    vocabulary, merges = read_vocabulary()
    tokenizer = _byte_pair_tokenizer(vocabulary, merges)
    start, end, comma = (vocabulary[word] for word in ("<|startoftext|>", "<|endoftext|>", ",</w>"))
    pad = end if padding is None else padding

    def tokenize(texts: Sequence[str]) -> torch.Tensor:
        rows = [in_chunks(each.ids, comma) for each in tokenizer.encode_batch(list(texts))]
        count = max(len(row) for row in rows)
        filled = [[*row, *[[] for _ in range(count - len(row))]] for row in rows]
        return torch.tensor(
            [[[start, *chunk, end, *[pad] * (CHUNK - len(chunk))] for chunk in row] for row in filled]
        )  # fmt: skip

    return tokenize


def _byte_pair_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """CLIP's rules for splitting a text, as in transformers' CLIPTokenizer, which each version wants made otherwise."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return tokenizer


def in_chunks(tokens: Sequence[int], comma: int) -> list[list[int]]:
    """A text's tokens in chunks of at most CHUNK, as A1111 cuts them with its default settings.

    A chunk that is full ends behind the last comma among its last `_BACKTRACK` tokens, so that no phrase is torn; where
    there is none, or where a comma is the next token, it ends where it is full. An empty text is one empty chunk.
    """
    chunks, rest = [], list(tokens)
    while len(rest) > CHUNK:
        commas = [place for place in range(CHUNK - _BACKTRACK, CHUNK) if rest[place] == comma]
        cut = commas[-1] + 1 if commas and rest[CHUNK] != comma else CHUNK
        chunks.append(rest[:cut])
        rest = rest[cut:]
    return [*chunks, rest]
