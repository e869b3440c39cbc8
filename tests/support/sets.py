"""Folders of pairs for the tests: made from names, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib_addift.sets.find import PairSet


def put(folder: Path, *names: str, **texts: str) -> Path:
    """Files without contents, for only their names matter, and files of text as NAME_txt or NAME_toml."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, text in texts.items():
        stem, _, kind = name.rpartition("_")
        (folder / f"{stem}.{kind}").write_text(text, encoding="utf-8")
    return folder


def files_of(found: PairSet) -> list[tuple[str, str]]:
    """The names of each pair's files, seen from the set's folder."""
    return [(seen(pair.original, found), seen(pair.target, found)) for pair in found.pairs]


def seen(source: Any, found: PairSet) -> str:
    return Path(source).relative_to(found.folder).as_posix()
