"""Matches the names of originals and targets by their endings, and makes names that LoRAs can have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from lib_addift.errors import LoraFileError, PictureError
from lib_addift.files import name_key
from lib_addift.lora.file import FORBIDDEN, INVISIBLE, RESERVED, check_name

__all__ = ["HALVES", "Rule", "find_rule", "match", "name_key", "safe_name", "shown", "usage"]

Rule = tuple[str, str]  # how an original's name ends and how its target's does

HALVES: tuple[Rule, ...] = (("original", "target"), ("before", "after"))  # endings, or folders of their own
_USUAL = ("target", "after", "b", "changed", "edited", "new")  # a target's ending, behind a _ or the like
_LONGEST = 99, 227  # characters, and bytes in a file's name; one less than `check_name` allows


def shown(name: str) -> str:
    """A file's name with characters that cannot be printed replaced by '?'."""
    return "".join(character if character.isprintable() else "?" for character in name)


def safe_name(text: str) -> str:
    """`text` if it is a valid name for a LoRA (see `check_name`), else a similar valid name."""
    try:
        return check_name(text)
    except LoraFileError:
        name = re.sub(f"{FORBIDDEN}|{INVISIBLE}", "_", text)[: _LONGEST[0]]
        name = name.encode()[: _LONGEST[1]].decode(errors="ignore")
        name = re.sub(r"(?i)\A[.\s]+|(\.safetensors|[.\s])+\Z", "", name)
        return check_name(f"_{name}" if re.match(RESERVED, name) else name or "lora")


def match(originals: Mapping[str, Path], targets: Mapping[str, Path], rule: Rule) -> list[tuple[str, str]]:
    """The names of originals and their targets, in order and none used twice: of a, a_x and a_x_x only the first two.

    The two mappings may be one and the same.
    """
    matches: list[tuple[str, str]] = []
    used: set[Path] = set()
    for name in sorted(originals, key=lambda name: (len(name), name)):
        partner = name.removesuffix(rule[0]) + rule[1]
        if name.endswith(rule[0]) and partner in targets:
            pictures = {originals[name], targets[partner]}
            if len(pictures) == 2 and not pictures & used:
                used |= pictures
                matches.append((name, partner))
    return sorted(matches)


def find_rule(names: Mapping[str, Path]) -> Rule:
    """The rule by which most of the names find a partner; of several the most common one.

    Raises PictureError when there is none, or when several are as good.
    """
    counts = {rule: len(match(names, names, rule)) for rule in HALVES}
    for ending, possible in _endings(names).most_common():
        if possible < max(counts.values()):  # nor can those that follow be better
            break
        counts["", ending] = len(match(names, names, ("", ending)))
    most = max(counts.values())
    best = [rule for rule, count in counts.items() if count == most]
    best = [rule for rule in best if usage(rule) == max(map(usage, best))]
    if most == 0:
        raise PictureError(
            "no two pictures in it belong together by their names: call a target like its original with an ending "
            "behind it (face.png, face_target.png), or put them into two folders, original and target."
        )
    if len(best) > 1:
        endings = " or ".join(f"'{shown(ending)}'" for _, ending in sorted(best)[:3])
        raise PictureError(
            f"it cannot be told whether the targets' names end in {endings}: write suffix = '...' into addift.toml."
        )
    return best[0]


def _endings(names: Mapping[str, Path]) -> Counter[str]:
    """The endings by which one name extends another, and how often each occurs.

    Numbers are not split: face1 and face10 are two faces, not one with an ending 0.
    """
    cuts = ((name[:cut], name[cut:]) for name in names for cut in range(1, len(name)))
    return Counter(end for start, end in cuts if start in names and not (start[-1].isdigit() and end[0].isdigit()))


def usage(rule: Rule) -> int:
    """How common a rule is: 2, 1, or 0 for one that may be chance."""
    return 2 if rule in HALVES else int(rule[1].lstrip(" ._-") in _USUAL)
