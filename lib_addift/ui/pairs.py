"""The pairs of the form: pictures, caption and mask of each, and which of them the slots show. No gradio."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from lib_addift.data.pairs import PairSource
from lib_addift.data.pictures import is_supported, load_picture
from lib_addift.errors import PictureError
from lib_addift.jobs.files import side_by_side

ROLES = ("original", "target")
PICTURES = (*ROLES, "pair_mask")  # the slots of the pair on show
MOST_PAIRS = 100  # all their pictures are in memory
_keys = itertools.count(1)


@dataclass(eq=False)
class FormPair:
    """One pair. A change of it is made under the draft's lock."""

    name: str = ""  # of its file, or how it was made; '' = its place in the list
    prompts: tuple[str, str] = ("", "")  # the captions of original and target
    is_drawn: bool = False  # by the model: learnt everywhere, unless it has a mask
    is_on: bool = True  # ticked: it is learnt from
    pictures: dict[str, Image.Image | None] = field(default_factory=lambda: dict.fromkeys(PICTURES))
    digests: dict[str, str] = field(default_factory=lambda: dict.fromkeys(PICTURES, ""))
    key: str = field(default_factory=lambda: f"p{next(_keys)}")

    @classmethod
    def of(cls, source: PairSource, *, is_drawn: bool = False) -> FormPair:
        """The pair of a PairSource, decoded. A mask that is white everywhere says what `is_drawn` does."""
        pair = cls(source.name, (source.original_prompt, source.target_prompt), is_drawn)
        pair.put(original=source.original, target=source.target, pair_mask=source.mask)
        mask = pair.pictures["pair_mask"]
        if mask is not None and mask.convert("L").getextrema() == (255, 255):
            pair.put(pair_mask=None)
            pair.is_drawn = True
        return pair

    def put(self, **pictures: Any) -> bool:
        """Decode and keep some of PICTURES, upright and in a mode that browsers show; None empties a slot.

        Returns whether any of them is another than before.
        """
        before = dict(self.digests)
        for role, picture in pictures.items():
            self.pictures[role] = decoded(picture)
            self.digests[role] = digest(self.pictures[role])
        return self.digests != before

    def swap(self) -> None:
        """The original becomes the target, and the target the original."""
        pictures, digests = self.pictures, self.digests
        pictures["original"], pictures["target"] = pictures["target"], pictures["original"]
        digests["original"], digests["target"] = digests["target"], digests["original"]
        self.prompts = self.prompts[1], self.prompts[0]

    @property
    def caption(self) -> str:
        """What both pictures show, in words."""
        return self.prompts[0]

    @caption.setter
    def caption(self, text: str) -> None:
        if text != self.caption:
            self.prompts = text, text

    @property
    def missing(self) -> list[str]:
        """The roles that have no picture."""
        return [role for role in ROLES if self.pictures[role] is None]

    @property
    def is_empty(self) -> bool:
        return len(self.missing) == len(ROLES)

    @property
    def thumbnail(self) -> Image.Image | None:
        """Both pictures, small and side by side; an empty slot is white."""
        first, second = (self.pictures[role] or Image.new("RGB", (8, 8), "white") for role in ROLES)
        return None if self.is_empty else side_by_side(first, second)

    def source(self, name: str, *, masks_itself: bool) -> PairSource:
        """What a Request takes; `masks_itself`: the settings find a mask where the pair brings none."""
        original, target, mask = (self.pictures[role] for role in PICTURES)
        assert original is not None
        assert target is not None
        if mask is None and self.is_drawn and masks_itself:
            mask = Image.new("L", original.size, 255)  # measured as better than a mask: docs/pairs.md
        return PairSource(original, target, name, *self.prompts, mask=mask)


class PairList:
    """The pairs in their order, of which there is always one, and which is on show.

    `revision` grows when something else than the page changes what the slots show.
    """

    def __init__(self) -> None:
        self.items: list[FormPair] = [FormPair()]
        self.shown = self.items[0]
        self.revision = 0

    def get(self, key: str) -> FormPair:
        """The pair with a key; the one on show for '' and for one that is gone."""
        return next((pair for pair in self.items if pair.key == key), self.shown)

    def show(self, pair: FormPair) -> None:
        """Put a pair into the slots."""
        self.shown = pair
        self.revision += 1

    def add(self, pairs: Iterable[FormPair]) -> None:
        """Add pairs and show the first of them; a pair without pictures makes room. Raises PictureError."""
        new = list(pairs)
        if len(self.items) + len(new) > MOST_PAIRS + 1:
            raise PictureError(f"more than {MOST_PAIRS} pairs: train larger sets from a folder, in the tab 'Batch'.")
        if new:
            self.items = [*(pair for pair in self.items if not pair.is_empty), *new]
            self.show(new[0])

    def remove(self, gone: Iterable[FormPair]) -> None:
        """Forget pairs; where none is left there is an empty one."""
        left = set(gone)
        place = self.items.index(self.shown)
        self.items = [pair for pair in self.items if pair not in left] or [FormPair()]
        if self.shown in left:
            self.show(self.items[min(place, len(self.items) - 1)])

    def replace(self, pairs: Iterable[FormPair]) -> None:
        """Hold these pairs only."""
        self.items = list(pairs) or [FormPair()]
        self.show(self.items[0])

    def label(self, pair: FormPair) -> str:
        """What a pair is called for the person."""
        return pair.name or f"pair {self.items.index(pair) + 1}"

    def sources(self, *, masks_itself: bool) -> list[PairSource]:
        """The ticked pairs as a Request takes them. Raises PictureError for what is missing."""
        ticked = [pair for pair in self.items if pair.is_on]
        if len(self.items) == 1 or not ticked:
            ticked = ticked or self._none_ticked()
            _check_whole(ticked[0], "")
            return [pair.source("", masks_itself=masks_itself) for pair in ticked]
        for pair in ticked:
            _check_whole(pair, self.label(pair))
        return [pair.source(self.label(pair), masks_itself=masks_itself) for pair in ticked]

    def _none_ticked(self) -> list[FormPair]:
        if len(self.items) > 1:
            raise PictureError("no pair is ticked: tick those from which the LoRA is to learn.")
        return self.items


def _check_whole(pair: FormPair, label: str) -> None:
    """Raises PictureError for a pair that lacks a picture."""
    if not pair.missing:
        return
    if label:
        raise PictureError(f"'{label}' has no {pair.missing[0]}: put it in, or untick or remove this pair.")
    what = "both pictures are" if pair.is_empty else f"the {pair.missing[0]} is"
    raise PictureError(f"{what} missing: put two pictures that differ in one thing into the slots above.")


def decoded(picture: Any) -> Image.Image | None:
    """A picture as `load_picture` gives it, which no later step decodes again.

    One that it refuses is kept in RGBA, so that the pair doctor can say why; None for what has no pixels.
    """
    if picture is None:
        return None
    try:
        return load_picture(picture, "picture")
    except PictureError:
        if not isinstance(picture, Image.Image) or not is_supported(picture):
            return None
        try:
            return picture.convert("RGBA")
        except Exception:  # its pixels cannot be decoded, for which every reader of Pillow has errors of its own
            return None


def digest(picture: Image.Image | None) -> str:
    """A text that is another for another picture; '' for none."""
    if picture is None:
        return ""
    return hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).hexdigest()
