"""The values of the difference sliders as LoRA tags, and as the text that is saved with a picture.

There are six rows, each of a LoRA, its weight and the timesteps from which and to which it acts. A row in use stands
for the tag `<lora:NAME:WEIGHT:from=FROM:to=TO>`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib_addift.errors import ConfigError
from lib_addift.hosts.prompt_tag.syntax import TagParams, read_prompt, read_tag

COUNT = 6
NONE = "None"  # the choice of no LoRA
ROW: Mapping[str, Any] = {"name": NONE, "weight": 0.0, "from": 1000.0, "to": 0.0}  # the values of a row not in use
INFOTEXT_KEY = "Difference LoRAs"


def tags_of(values: Sequence[Any], axes: Mapping[str, Any] | None = None) -> list[TagParams]:
    """The tags of the rows that have a LoRA and a weight other than 0.

    Args:
        values: Name, weight, from and to of the first row, then those of the second, and so on.
        axes: What an X/Y/Z plot varies in the first row in use, by the names in `ROW`.

    Raises:
        ConfigError: A weight is no number, a timestep no number from 0 to 1000, or `axes` finds no row in use.
    """
    starts = range(0, len(values), len(ROW))
    rows = [dict(ROW) | dict(zip(ROW, values[start : start + len(ROW)], strict=False)) for start in starts]
    used = [row for row in rows if row["name"] not in {NONE, "", None}]
    if axes and not used:
        raise ConfigError("no LoRA is chosen in 'Difference sliders', so the X/Y/Z plot can vary none: choose one.")
    if axes:
        used[0] |= axes
    tags = [_tag_of(row) for row in used]
    return [tag for tag in tags if read_tag(tag).unet_weight]


def infotext_of(tags: Sequence[TagParams]) -> str:
    """The tags as a prompt would have them."""
    return " ".join(f"<lora:{':'.join(tag.items)}>" for tag in tags)


def values_of(infotext: str) -> list[Any]:
    """The values of all rows for what `infotext_of` has written; for any other text those of rows not in use."""
    try:
        _rest, tags = read_prompt(infotext)
    except ConfigError:
        tags = []
    rows = [(tag.name, tag.unet_weight, tag.high, tag.low) for tag in tags[:COUNT]]
    rows += [tuple(ROW.values())] * (COUNT - len(rows))
    return [value for row in rows for value in row]


def _value_at(index: int, generation: Mapping[str, Any]) -> Any:
    return values_of(str(generation.get(INFOTEXT_KEY, "")))[index]


# One function for each value: what it is, given all that was saved with a picture. Both tabs have the same ones, which
# is how the WebUI finds where a value goes that is sent from one tab to the other.
READERS: tuple[Callable[[Mapping[str, Any]], Any], ...] = tuple(
    functools.partial(_value_at, index) for index in range(COUNT * len(ROW))
)


def _tag_of(row: Mapping[str, Any]) -> TagParams:
    items = [str(row["name"]), _text(row["weight"])]
    if any(row[end] != ROW[end] for end in ("from", "to")):
        items += [f"{end}={_text(row[end])}" for end in ("from", "to")]
    return TagParams(items)


def _text(number: Any) -> str:
    return f"{number:g}" if isinstance(number, int | float) else str(number)
