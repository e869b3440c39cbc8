"""Reads `<lora:...>` tags: weights, the timesteps in which a LoRA acts, and how several LoRAs are composed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lib_addift.errors import ConfigError

MERGE, SWITCH, COMPOSITE = MODES = ("merge", "switch", "composite")
OURS = ("from", "to", "compose", "every")  # the named arguments that the WebUI does not know

_TAG = re.compile(r"<lora:([^:>]+(?::[^>]*)?)>")
_LAST = 1000  # timesteps go from 0 to 999; whole thousands are easier to write


class Params(Protocol):
    """The arguments of a tag, between its colons: modules.extra_networks.ExtraNetworkParams."""

    @property
    def items(self) -> Sequence[str]:
        """All arguments."""
        ...

    @property
    def positional(self) -> Sequence[str]:
        """Those without '='."""
        ...

    @property
    def named(self) -> Mapping[str, str]:
        """Those with '='."""
        ...


@dataclass(frozen=True)
class TagParams:
    """`Params` of a tag that was read without a WebUI."""

    items: Sequence[str]

    @property
    def positional(self) -> Sequence[str]:
        return [item for item in self.items if "=" not in item]

    @property
    def named(self) -> Mapping[str, str]:
        return dict(item.split("=", 1) for item in self.items if "=" in item)


@dataclass(frozen=True)
class Tag:
    """A tag that was read and checked. Its LoRA acts in the UNet where low <= timestep <= high."""

    name: str
    text_weight: float = 1.0
    unet_weight: float = 1.0
    low: float = 0.0
    high: float = _LAST
    mode: str = MERGE
    every: int | None = None  # steps; None where the tag does not say

    @property
    def is_plain(self) -> bool:
        """Whether it says nothing but a name and weights."""
        return (self.low, self.high, self.mode) == (0, _LAST, MERGE)


@dataclass(frozen=True)
class Composition:
    """How the LoRAs whose tags say compose= act in one picture.

    merge: all at once. switch: one in each sampling step, the next one after `every` steps. composite: the mean of the
    predictions that each of them makes alone. Source of the last two: Zhong et al. 2024, section 3 (LoRA Switch, LoRA
    Composite).
    """

    mode: str = MERGE
    every: int = 1


def is_ours(params: Params) -> bool:
    """Whether a tag has arguments that the WebUI does not understand."""
    return bool(params.named.keys() & {"from", "to", "every"}) or _mode(params) != MERGE


def read_tag(params: Params) -> Tag:
    """Read and check a tag's arguments. Raises ConfigError when a number or a word is wrong."""
    name = params.positional[0] if params.positional else ""
    text_weight, unet_weight = _weights(params)
    low, high = _window(params)
    mode = _mode(params)
    if mode not in MODES:
        raise ConfigError(f"compose={mode} is unknown: write compose=switch, compose=composite or compose=merge.")
    return Tag(name, text_weight, unet_weight, low, high, mode, _every(params, mode))


def read_prompt(prompt: str) -> tuple[str, list[Tag]]:
    """'a cat <lora:hat:0.5>' -> 'a cat', [Tag('hat', 0.5, 0.5)]. Raises ConfigError for a wrong tag."""
    tags = []
    for text in _TAG.findall(prompt, 0, _end(prompt)):
        params = TagParams([item for item in text.split(":") if item])
        try:
            tags.append(read_tag(params))
        except ConfigError as error:
            raise ConfigError(f"<lora:{text}>: {error}") from error
    return _replaced(prompt, lambda _match: "").strip(), tags


def composition_of(tags: Sequence[Tag]) -> tuple[Composition, str]:
    """The composition that the tags of one prompt ask for, and a sentence where they contradict each other, or ''."""
    modes = list(dict.fromkeys(tag.mode for tag in tags if tag.mode != MERGE))
    if len(modes) > 1:
        asked = " and ".join(f"compose={mode}" for mode in modes)
        return Composition(), f"one prompt cannot have {asked}, so these LoRAs are merged: give all of them the same."
    turns = list(dict.fromkeys(tag.every for tag in tags if tag.every is not None)) or [1]
    problem = ""
    if len(turns) > 1:
        asked = " and ".join(f"every={every}" for every in turns)
        problem = f"one prompt cannot have {asked}, so every={turns[0]} was used: give all LoRAs the same."
    return Composition(modes[0] if modes else MERGE, turns[0]), problem


def text_weights(tags: Sequence[Tag]) -> list[tuple[str, float]]:
    """The weights at which the LoRAs act in the text encoder, by name.

    The text encoder runs once, not in each sampling step, so from= and compose= have no meaning there: a LoRA with
    several such tags acts once, at the weight of the first.
    """
    weights, seen = [], set()
    for tag in tags:
        if tag.is_plain or tag.name not in seen:
            weights.append((tag.name, tag.text_weight))
        if not tag.is_plain:
            seen.add(tag.name)
    return weights


def with_mode(prompt: str, mode: str) -> str:
    """The prompt with compose=`mode` in each of its LoRA tags, in place of their own."""

    def say(match: re.Match[str]) -> str:
        dropped = ("compose=",) if mode == SWITCH else ("compose=", "every=")
        items = [item for item in match[1].split(":") if not item.startswith(dropped)]
        return f"<lora:{':'.join([*items, f'compose={mode}'])}>"

    return _replaced(prompt, say)


def has_tag(prompt: str) -> bool:
    """Whether the prompt has a LoRA tag."""
    return _TAG.search(prompt, 0, _end(prompt)) is not None


def _end(prompt: str) -> int:
    """Where the last tag ends at the latest. Beyond it each '<lora:' would be compared with all the rest in vain."""
    return prompt.rfind(">") + 1


def _replaced(prompt: str, replacement: Callable[[re.Match[str]], str]) -> str:
    """The prompt with each tag replaced."""
    end = _end(prompt)
    return _TAG.sub(replacement, prompt[:end]) + prompt[end:]


def _mode(params: Params) -> str:
    return params.named.get("compose", MERGE).strip().lower()


def _every(params: Params, mode: str) -> int | None:
    text = params.named.get("every")
    if text is None:
        return None
    if mode != SWITCH:
        raise ConfigError(f"every={text} says after how many steps LoRAs take turns: write compose=switch beside it.")
    value = _number(text)
    if value is None or value < 1 or value != int(value):
        raise ConfigError(f"every={text} is no whole number of steps: write for example every=2.")
    return int(value)


def _window(params: Params) -> tuple[float, float]:
    """The lowest and the highest timestep at which the LoRA acts."""
    ends = []
    for key, default in {"from": f"{_LAST}", "to": "0"}.items():
        text = params.named.get(key, default)
        value = _number(text)
        if value is None or not 0 <= value <= _LAST:
            raise ConfigError(f"{key}={text} is no number from 0 to {_LAST}: write for example from={_LAST}:to=500.")
        ends.append(value)
    return min(ends), max(ends)


def _weights(params: Params) -> tuple[float, float]:
    """<lora:NAME:TE:UNET>, or te= and unet=; by default the UNet's weight is the text encoder's, and that is 1.

    Source: ExtraNetworkLora.activate of A1111 and Forge.
    """
    text = params.positional[1] if len(params.positional) > 1 else "1"
    text = params.named.get("te", text)
    unet = params.positional[2] if len(params.positional) > 2 else text
    unet = params.named.get("unet", unet)
    return _weight(text), _weight(unet)


def _weight(text: str) -> float:
    value = _number(text)
    if value is None:
        raise ConfigError(f"the weight '{text}' is no number: write for example 0.8.")
    return value


def _number(text: str) -> float | None:
    """None when `text` is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
