"""Sets of single pictures in kohya's layout: a folder 10_word has pictures to repeat ten times, with that prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lib_addift.data.pairs import PairSource
from lib_addift.errors import ConfigError
from lib_addift.sets.names import shown
from lib_addift.sets.pairing import FoundPairs, Listing, holds_usual_pairs, read_caption
from lib_addift.sets.settings_file import settings_file

REGULARISATION_FOLDERS = ("regularisation", "regularization", "reg")
_REPEATED = re.compile(r"(\d{1,4})_(.+)")


def find_pictures(folder: Path) -> FoundPairs | None:
    """The pictures of a folder's folders N_WORD, each with its caption or else WORD as its prompt; None without any.

    None too where one of them is a set itself, with pairs or an addift.toml: then the numbers only put sets in order.
    Regularisation pictures are in such folders, or loose, in a folder called as one of REGULARISATION_FOLDERS.
    Raises OSError.
    """
    top = Listing.of(folder)
    learnt = _repeated(top)
    if not learnt or any(settings_file(path) or holds_usual_pairs(path) for path in learnt):
        return None
    priors: dict[Path, tuple[int, str]] = {}
    for name in REGULARISATION_FOLDERS:
        if place := top.folders.get(name):
            priors |= {place: (1, ""), **_repeated(Listing.of(place))}
    try:
        sources = [*_sources(learnt, is_prior=False), *_sources(priors, is_prior=True)]
    except ConfigError as error:
        return FoundPairs((), (), str(error))
    notes = [_note(path, *seen) for path, seen in learnt.items()]
    count = sum(source.is_prior for source in sources)
    if count:
        notes.append(f"{count} regularisation picture{'s' * (count > 1)}")
    others = [shown(path.name) for path in top.all_folders if path not in learnt and path not in priors]
    if others or top.pictures:
        loose = [shown(path.name) for path in top.pictures.values()]
        notes.append(f"not used, because it is in no folder such as 10_word: {', '.join([*others, *loose][:5])}")
    problem = "" if any(not source.is_prior for source in sources) else "its folders hold no pictures: put some there."
    return FoundPairs(tuple(sources), tuple(notes), problem)


def _repeated(listing: Listing) -> dict[Path, tuple[int, str]]:
    """The folders N_WORD, with N and WORD."""
    matches = ((path, _REPEATED.fullmatch(path.name)) for path in listing.all_folders)
    return {path: (int(match[1]), match[2]) for path, match in matches if match and int(match[1]) > 0}


def _sources(folders: Mapping[Path, tuple[int, str]], *, is_prior: bool) -> list[PairSource]:
    """Raises ConfigError and OSError."""
    sources = []
    for folder, (repeats, word) in folders.items():
        listing = Listing.of(folder)
        for name, picture in listing.pictures.items():
            caption = listing.captions.get(name)
            prompt = read_caption(caption) if caption else word
            sources.append(
                PairSource(
                    picture, picture, shown(picture.stem), prompt, prompt, mask=listing.masks.get(name),
                    repeats=repeats, is_single=True, is_prior=is_prior,
                )
            )  # fmt: skip
    return sources


def _note(folder: Path, repeats: int, word: str) -> str:
    count = len(Listing.of(folder).pictures)
    return f"{count} picture{'s' * (count != 1)} of '{shown(word)}', seen {repeats} time{'s' * (repeats != 1)} each"
