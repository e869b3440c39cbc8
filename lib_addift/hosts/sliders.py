"""The difference sliders in a WebUI's txt2img and img2img: a script that is always there, and axes of the X/Y/Z plot.

Each slider stands for a LoRA tag. The tags are not written into the prompt: they join those that the WebUI finds in it,
so that they act as tags do, also in the hires pass, and the prompt that is saved with the picture is the person's own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from modules import extra_networks, scripts
from PIL import Image

from lib_addift.data.pictures import load_picture
from lib_addift.errors import ConfigError, PictureError
from lib_addift.hosts.prompt_tag.sliders import INFOTEXT_KEY, READERS, infotext_of, tags_of
from lib_addift.hosts.prompt_tag.syntax import TagParams
from lib_addift.hosts.prompt_tag.webui import comment, find_lora

TITLE = "Difference sliders"
AXES = {f"Difference LoRA {name}": name for name in ("weight", "from", "to")}  # label -> value of a row
_VARIED = "addift_axes"  # an attribute of the WebUI's `p`: what an X/Y/Z plot varies in this picture


class Loras:
    """The LoRAs that a slider can have."""

    def names(self) -> list[str]:
        """Those that were made here, the newest first; none where the WebUI's built-in Lora extension is off."""
        try:
            networks = import_module("networks")
        except ImportError:
            return []
        networks.list_available_networks()
        made = [each for each in networks.available_networks.values() if _is_ours(each)]
        return [str(each.name) for each in sorted(made, key=_age)]

    def picture(self, name: str) -> Image.Image | None:
        """The picture beside a LoRA's file, RGB; None if there is none that can be read."""
        entry = find_lora(name)
        try:
            return load_picture(Path(entry.filename).with_suffix(".png"), name) if entry else None
        except PictureError:
            return None


class SlidersScript(scripts.Script):  # type: ignore[misc]  # the WebUI's class has no types
    """What the WebUI calls. The class in scripts/ adds `build`, which makes the components of a tab.

    It does not stand there as a whole, because a WebUI registers every script class that it finds in a file.
    """

    def title(self) -> str:
        return TITLE

    def show(self, _is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def build(self, tab: str, loras: Loras) -> list[Any]:
        """The components, in the order of their values."""
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> list[Any]:
        """Build the sliders, and say how their values are read from the text that is saved with a picture."""
        components = self.build("img2img" if is_img2img else "txt2img", Loras())
        self.infotext_fields = list(zip(components, READERS, strict=True))
        self.paste_field_names = list(READERS)
        return components

    def before_process_batch(self, p: Any, *values: Any, **_batch: Any) -> None:
        """Called just before the WebUI takes the tags out of a batch's prompts. A wrong value is shown as a comment."""
        try:
            tags = _known(p, tags_of(values, getattr(p, _VARIED, None)))
        except ConfigError as error:
            comment(p, f"{TITLE}: {error}")
            return
        p.extra_generation_params.pop(INFOTEXT_KEY, None)  # an X/Y/Z plot's pictures share this mapping
        if tags:
            p.extra_generation_params[INFOTEXT_KEY] = infotext_of(tags)
            _add_to_prompts(p, tags)


def add_axes() -> None:
    """Add our axes to the X/Y/Z plot, where that script is present. A second call changes nothing."""
    for module in {id(data.module): data.module for data in scripts.scripts_data}.values():
        if hasattr(module, "AxisOption") and hasattr(module, "axis_options"):
            known = {option.label for option in module.axis_options}
            module.axis_options += [
                module.AxisOption(label, float, functools.partial(_vary, name), confirm=functools.partial(_check, name))
                for label, name in AXES.items()
                if label not in known
            ]


def _vary(name: str, p: Any, value: float, _values: Sequence[float]) -> None:
    """Set a value for one picture. `p` is the plot's copy for this picture, which shares its attributes with others."""
    setattr(p, _VARIED, {**getattr(p, _VARIED, {}), name: value})


def _check(name: str, _p: Any, values: Sequence[float]) -> None:
    """Called before the first picture of a plot. Raises ConfigError."""
    for value in values:
        tags_of(["LoRA", 1.0], {name: value})


def _is_ours(entry: Any) -> bool:
    """Whether this extension has written the file: a trained LoRA, or one that its tools have made."""
    return any(str(key).startswith("addift.") for key in entry.metadata or {})


def _age(entry: Any) -> float:
    """Smaller for newer files."""
    path = Path(entry.filename)
    return -path.stat().st_mtime if path.is_file() else 0.0


def _known(p: Any, tags: Sequence[TagParams]) -> list[TagParams]:
    """The tags whose LoRA is there; of the others a comment says so."""
    known = []
    for tag in tags:
        if find_lora(tag.items[0]):
            known.append(tag)
        else:
            comment(p, f"{TITLE}: there is no LoRA called '{tag.items[0]}', so it was left off: choose another.")
    return known


def _add_to_prompts(p: Any, tags: Sequence[TagParams]) -> None:
    """Add the tags to those that the WebUI is about to find in the prompts of this batch.

    `p.extra_network_data`, for the first pass, and `p.hr_extra_network_data`, for the hires pass, are what it activates
    LoRAs by, what it keeps encoded prompts by, and what it takes LoRAs off by.
    """
    parse = p.parse_extra_network_prompts

    def parse_and_add() -> None:
        del p.parse_extra_network_prompts  # this batch only
        parse()
        for data in (p.extra_network_data, getattr(p, "hr_extra_network_data", None)):
            if data is not None:
                made = [extra_networks.ExtraNetworkParams(items=list(tag.items)) for tag in tags]
                data.setdefault("lora", []).extend(made)

    p.parse_extra_network_prompts = parse_and_add
