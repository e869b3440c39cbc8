"""Finds the pairs in a folder with their masks and captions, by file names alone; no picture is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lib_addift.data.pairs import PairSource
from lib_addift.errors import ConfigError, PictureError
from lib_addift.sets.names import HALVES, Rule, find_rule, match, name_key, shown, usage

MASK_FOLDER = "mask"
# Those that the installed Pillow cannot read are refused when they are opened.
_PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jxl", ".heic")
_MASK_ENDING = re.compile(r"[ ._-]mask\Z")
_LISTED = 5  # names in one sentence


@dataclass(frozen=True)
class FoundPairs:
    """A folder's pairs, notes on how they were found, and why they cannot be used, or ''."""

    pairs: tuple[PairSource, ...]
    notes: tuple[str, ...]
    problem: str = ""


def find_pairs(folder: Path, suffix: str = "", ignore: Path | None = None) -> FoundPairs:
    """The pairs of a folder: NAME.png and NAME_ENDING.png in it, or NAME.png in its folders original and target.

    Args:
        folder: where to look.
        suffix: the targets' ending; '' = the one with which most pictures find a partner.
        ignore: a file that is no picture of a pair.

    Raises:
        OSError: the folder or a caption cannot be read.
    """
    layout = _Layout.of(folder, name_key(suffix), ignore)
    try:
        matches = layout.matches(suffix)
    except PictureError as error:
        return FoundPairs((), tuple(layout.unused(set())), str(error))
    pairs, used, problem = [], set[Path](), ""
    for original, target in matches:
        first, second = layout.originals.pictures[original], layout.targets.pictures[target]
        mask, captions = layout.mask(original, target), layout.captions(original, target)
        used |= {path for path in (first, second, mask, *captions) if path}
        try:
            prompts = [read_caption(path) if path else "" for path in captions]
        except ConfigError as error:
            problem, prompts = problem or str(error), ["", ""]
        pairs.append(PairSource(first, second, shown(first.stem), prompts[0], prompts[1], mask=mask))
    return FoundPairs(tuple(pairs), (*layout.about(matches[0], pairs), *layout.unused(used)), problem)


def holds_pictures(folder: Path) -> bool:
    """Whether there are pictures in a folder or in the folders in it. Raises OSError."""
    top = Listing.of(folder)
    return top.has_pictures or any(Listing.of(inner).has_pictures for inner in top.all_folders)


def holds_usual_pairs(folder: Path) -> bool:
    """Whether a folder holds pairs with usual endings, which are no coincidence. Raises OSError."""
    layout = _Layout.of(folder, "", None)
    try:
        return bool(layout.matches("")) and (bool(layout.own_folders) or usage(layout.rule) > 0)
    except PictureError:
        return False


def inner_folders(folder: Path) -> dict[Path, bool]:
    """All folders in a folder, by name, and whether each is called as a part of a set. Raises OSError."""
    parts = {MASK_FOLDER, *(name for names in HALVES for name in names)}
    return {path: name_key(path.name) in parts for path in Listing.of(folder).all_folders}


@dataclass(frozen=True)
class Listing:
    """A folder's files and folders by the keys of their names, in order; without those that answer to one name."""

    pictures: Mapping[str, Path]
    masks: Mapping[str, Path]  # by the picture to which they belong
    captions: Mapping[str, Path]
    folders: Mapping[str, Path]
    all_folders: tuple[Path, ...]  # also those that answer to one name
    twins: tuple[tuple[Path, ...], ...] = ()  # files that answer to one name
    twin_folders: tuple[tuple[Path, ...], ...] = ()

    @classmethod
    def of(cls, folder: Path, suffix: str = "", ignore: Path | None = None, *, only_masks: bool = False) -> Listing:
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
        paths = sorted(visible, key=lambda path: (name_key(path.name), path.name))
        files = [(name_key(path.stem), path) for path in paths if path != ignore and path.is_file()]
        pictures = [(name, path) for name, path in files if path.suffix.lower() in _PICTURES]
        names = {name for name, _ in pictures}

        def is_mask(name: str) -> bool:
            if only_masks or (suffix and name.endswith(suffix)):
                return only_masks
            return bool(_MASK_ENDING.search(name)) and _MASK_ENDING.sub("", name) in names

        learnt = _groups((name, path) for name, path in pictures if not is_mask(name))
        masks = _groups((_MASK_ENDING.sub("", name), path) for name, path in pictures if is_mask(name))
        captions = _groups((name, path) for name, path in files if path.suffix.lower() == ".txt")
        folders = _groups((name_key(path.name), path) for path in paths if path.is_dir())
        twins = tuple(twin for groups in (learnt, masks, captions) for twin in _twins(groups))
        every_folder = tuple(path for group in folders.values() for path in group)
        files_and_folders = _alone(learnt), _alone(masks), _alone(captions), _alone(folders)
        return cls(*files_and_folders, every_folder, twins, _twins(folders))

    @property
    def has_pictures(self) -> bool:
        return bool(self.pictures or self.masks or self.twins)


def _groups(files: Iterable[tuple[str, Path]]) -> dict[str, tuple[Path, ...]]:
    groups: dict[str, tuple[Path, ...]] = {}
    for name, path in files:
        groups[name] = (*groups.get(name, ()), path)
    return groups


def _twins(groups: Mapping[str, tuple[Path, ...]]) -> tuple[tuple[Path, ...], ...]:
    return tuple(paths for paths in groups.values() if len(paths) > 1)


def _alone(groups: Mapping[str, tuple[Path, ...]]) -> dict[str, Path]:
    return {name: paths[0] for name, paths in groups.items() if len(paths) == 1}


@dataclass(frozen=True)
class _Layout:
    """Where a folder keeps its originals and targets (in one folder: the same listing twice) and its masks."""

    folder: Path
    suffix: str
    top: Listing
    originals: Listing
    targets: Listing
    masks: Listing | None
    own_folders: tuple[str, ...] = ()  # of originals and targets

    @classmethod
    def of(cls, folder: Path, suffix: str, ignore: Path | None) -> _Layout:
        top = Listing.of(folder, suffix, ignore)
        place = top.folders.get(MASK_FOLDER)
        masks = Listing.of(place, ignore=ignore, only_masks=True) if place else None
        for names in HALVES:
            if all(name in top.folders for name in names):
                first, second = (Listing.of(top.folders[name], suffix, ignore) for name in names)
                return cls(folder, suffix, top, first, second, masks, names)
        return cls(folder, suffix, top, top, top, masks)

    def matches(self, suffix: str) -> list[tuple[str, str]]:
        """The names that make pairs. Raises PictureError when there are none, or when the rule is ambiguous."""
        listings = self._listings()
        lone = [names for names in HALVES if any(name in self.top.folders for name in names)]
        if not self.own_folders and lone and not self.top.pictures:
            there, missing = sorted(lone[0], key=lambda name: name not in self.top.folders)
            raise PictureError(f"it has a folder '{there}' and none called '{missing}': put the other pictures there.")
        if not any(listing.has_pictures for listing in listings):
            raise PictureError("it holds no pictures: put pairs into it, such as face.png and face_target.png.")
        found = match(self.originals.pictures, self.targets.pictures, self.rule)
        if found:
            return found
        ending = f"with '{shown(suffix)}' behind it" if suffix else "with the same name"
        if self.own_folders:
            raise PictureError("no picture in '{}' has one in '{}' {}: rename them.".format(*self.own_folders, ending))
        raise PictureError(f"no picture's name is there a second time {ending}: correct suffix in addift.toml.")

    @property
    def rule(self) -> Rule:
        """The endings of originals and targets. Raises PictureError when they are ambiguous."""
        return ("", self.suffix) if self.suffix or self.own_folders else find_rule(self.top.pictures)

    def captions(self, original: str, target: str) -> tuple[Path | None, Path | None]:
        """The files for the original and for the target: NAME.txt is for both, NAME_ENDING.txt for the target alone.

        Where each has a name or a folder of its own, the only one that is there is for both.
        """
        first, second = self.originals.captions.get(original), self.targets.captions.get(target)
        is_common = not self.own_folders and target.startswith(original)
        return first or (None if is_common else second), second or first

    def mask(self, original: str, target: str) -> Path | None:
        """The pair's own mask: beside the original, beside the target, or in the folder of masks."""
        places = [(self.originals, original), (self.targets, target)]
        places += [(self.masks, name) for name in (original, target) if self.masks]
        return next((listing.masks[name] for listing, name in places if name in listing.masks), None)

    def about(self, example: tuple[str, str], pairs: list[PairSource]) -> list[str]:
        """Notes on the number of pairs, one of them by name, and how many have captions and masks."""
        count = len(pairs)
        original, target = self.originals.pictures[example[0]], self.targets.pictures[example[1]]
        names = f"{self._shown(original)} with {self._shown(target)}"
        notes = [f"1 pair: {names}" if count == 1 else f"{count} pairs, such as {names}"]
        captions = sum(bool(pair.original_prompt or pair.target_prompt) for pair in pairs)
        masks = sum(pair.mask is not None for pair in pairs)
        return notes + [f"{what} for {n} of {count}" for what, n in (("captions", captions), ("masks", masks)) if n]

    def unused(self, used: set[Path]) -> list[str]:
        """Notes on files and folders that are no part of a pair."""
        listings = self._listings()
        folders = [path for name, path in self.top.folders.items() if name not in (MASK_FOLDER, *self.own_folders)]
        kinds = (
            ([path for listing in listings for path in listing.pictures.values()], "picture", "without a partner"),
            ([path for listing in listings for path in listing.masks.values()], "mask", "of no pair"),
            ([path for listing in listings for path in listing.captions.values()], "text", "of no pair"),
            (folders, "folder", "not used"),
        )
        notes = [
            f"{self._listed(group)}: one name, so none of them is used; rename or delete all but one"
            for listing in listings
            for group in (*listing.twins, *listing.twin_folders)
        ]
        for paths, what, why in kinds:
            left = [path for path in paths if path not in used]
            if left:
                notes.append(f"{len(left)} {what}{'s' * (len(left) > 1)} {why}: {self._listed(left)}")
        return notes

    def _listings(self) -> list[Listing]:
        """All of them, each once."""
        halves = [self.originals, self.targets] if self.own_folders else []
        return [self.top, *halves, *([self.masks] if self.masks else [])]

    def _listed(self, paths: Iterable[Path]) -> str:
        names = [self._shown(path) for path in paths]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return ", ".join(names[:_LISTED]) + more

    def _shown(self, path: Path) -> str:
        return shown(path.relative_to(self.folder).as_posix())


def read_caption(path: Path) -> str:
    """A text file as one line. Raises ConfigError and OSError."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"the caption '{shown(path.name)}' is not text in UTF-8 ({error}): save it so.") from error
    return " ".join(line.strip() for line in lines if line.strip())
