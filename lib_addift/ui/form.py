"""The form as data: its fields, made from TrainConfig, and the draft that survives a reload of the page. No gradio."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from lib_addift.config.presets import DEFAULT_PRESET, PRESETS, preset_for
from lib_addift.config.prompts import without_alternatives
from lib_addift.config.settings import TrainConfig
from lib_addift.errors import ConfigError
from lib_addift.jobs.files import without_shared_mask
from lib_addift.training.dataset import with_usual_steps
from lib_addift.training.events import Request
from lib_addift.training.methods import from_mapping, make_config, method_settings
from lib_addift.ui.pairs import FormPair, PairList

SETTINGS = {setting.name: setting for setting in dataclasses.fields(TrainConfig)}
FORM = ("name", "overwrite", "preset", *SETTINGS)  # everything in the form but the pictures
# What is typed to have pairs drawn, and what stands there at first.
WAYS: dict[str, Any] = {
    "words_original": "", "words_target": "", "words_count": 8, "vary_caption": "", "vary_count": 4,
}  # fmt: skip
# The places for error sentences: one in each tab.
ALERTS = ("alert", "batch_alert", "queue_alert", "tools_alert")

OFTEN_USED = "Often used"
_HEADINGS = {  # first setting of each part of the form -> heading; the settings after it belong to the same part
    "rank": "The LoRA",
    "max_train_steps": "Learning",
    "method": "The method",
    "resolution": "The pictures",
    "precision": "The machine",
    "calibrate": "The result",
}
_SMALLEST_SHARE = 0.01  # lower bounds below that need steps of powers of ten, which a slider does not have


class Props(dict[str, Any]):
    """New properties of a component, such as its choices, where more than its value changes."""


def parts() -> dict[str, list[str]]:
    """Heading -> names of the settings under it, those that are often used first."""
    result: dict[str, list[str]] = {OFTEN_USED: []}
    heading = ""
    for name, setting in SETTINGS.items():
        heading = _HEADINGS.get(name, heading)
        is_often_used = not setting.metadata.get("advanced", True)
        result.setdefault(OFTEN_USED if is_often_used else heading, []).append(name)
    return result


def widget(name: str) -> str:
    """The kind of component for a setting: checkbox, checkboxes, radio, dropdown, slider, number or text."""
    setting = SETTINGS[name]
    rules, kind = setting.metadata, str(setting.type)
    if kind == "bool":
        return "checkbox"
    if "choices" in rules:
        return "checkboxes" if kind.startswith("tuple") else "dropdown"
    if kind == "str":
        return "text"
    is_share = kind == "float" and rules["high"] == 1 and (rules["low"] == 0 or rules["low"] >= _SMALLEST_SHARE)
    return "slider" if is_share else "number"


def help_text(name: str) -> str:
    """A setting's help; with the bounds, where the component does not show them."""
    rules = SETTINGS[name].metadata
    if widget(name) != "number" or rules["high"] > 1e9:
        return str(rules["help"])
    return f"{rules['help']} ({rules['low']:g} to {rules['high']:g})"


def number_step(name: str) -> float:
    """By how much an arrow key changes a number."""
    setting = SETTINGS[name]
    if setting.type == "int":
        return 1
    default: Any = setting.default
    return 0.05 if widget(name) == "slider" else min(0.1, default / 10 or 0.1)


def preset_values(preset: str) -> dict[str, Any]:
    """What a preset sets: every setting that any preset names, so that nothing of another preset stays behind."""
    config = make_config(preset).to_dict()
    return {name: config[name] for name in SETTINGS if any(name in settings for settings in PRESETS.values())}


def method_values(method: str, preset: str) -> dict[str, Any]:
    """What a method sets on top of a preset: every setting that any method names."""
    config = make_config(preset, method=method).to_dict()
    named = {name for settings in method_settings().values() for name in settings}
    if preset_for(preset, {"method": method}) != preset:  # another preset's settings come with the method
        named |= preset_values(preset).keys()
    return {name: config[name] for name in SETTINGS if name in named}


def empty_form() -> dict[str, Any]:
    """The form as it is at first."""
    return {"name": "", "overwrite": False, "preset": DEFAULT_PRESET, **make_config(DEFAULT_PRESET).to_dict()}


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a filled form, as `from_mapping` takes them."""
    settings = {name: value for name, value in values.items() if name in SETTINGS}
    return {"preset": str(values.get("preset") or DEFAULT_PRESET), **settings}


def base_settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that the form's preset has too, so that a set's own preset can replace them.

    The default preset is left out as well: which one it is may depend on the set's own settings.
    """
    settings = settings_of(values)
    preset = settings.pop("preset")
    defaults = make_config(preset).to_dict() if preset in PRESETS else {}
    changed = {name: value for name, value in settings.items() if value != defaults.get(name)}
    return changed if preset == DEFAULT_PRESET else {"preset": preset, **changed}


def default_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the preset and the method of the form say of every setting but the method itself."""
    preset, method = str(values.get("preset") or DEFAULT_PRESET), str(values.get("method") or TrainConfig.method)
    defaults = make_config(preset, method=method).to_dict()
    return {name: value for name, value in defaults.items() if name != "method"}


def changed_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a person has changed, each with its default for the preset and method of the form."""
    try:
        defaults = default_settings(values)
    except ConfigError:  # no such preset or method
        return {}
    return {name: default for name, default in defaults.items() if values[name] != default}


def config_of(values: Mapping[str, Any]) -> TrainConfig:
    """The settings of a filled form. Raises ConfigError."""
    return from_mapping(settings_of(values))


def form_of(request: Request, preset: str) -> dict[str, Any]:
    """The form filled as for this request, without its pictures."""
    return {"name": request.name, "overwrite": False, "preset": preset, **request.config.to_dict()}


def preset_of(config: TrainConfig) -> str:
    """The preset from which `config` differs in the fewest settings; of equal ones the first."""
    values = config.to_dict()
    return min(PRESETS, key=lambda name: sum(values[key] != value for key, value in preset_values(name).items()))


def request_of(values: Mapping[str, Any], pairs: PairList) -> Request:
    """What the filled form asks for. Raises ConfigError and PictureError.

    As for a set in a folder: several pairs get more steps, unless the form says how many, and the caption of the
    first is what the previews show, unless there is a prompt.
    """
    config = config_of(values)
    sources = pairs.sources(masks_itself=config.mask == "auto")
    if len(sources) > 1:
        config = with_usual_steps(config, sources, base_settings_of(values))
    if not (config.preview_prompt or config.prompt):
        config = dataclasses.replace(config, preview_prompt=without_alternatives(sources[0].original_prompt))
    name, overwrite = str(values["name"] or "").strip(), bool(values["overwrite"])
    return Request(tuple(sources), name, config, overwrite)


@dataclass
class Draft:
    """What was put into the form, and what is on show. Changes of more than one field happen under the lock."""

    values: dict[str, Any] = field(default_factory=empty_form)
    ways: dict[str, Any] = field(default_factory=WAYS.copy)
    pairs: PairList = field(default_factory=PairList)
    alerts: dict[str, str] = field(default_factory=lambda: dict.fromkeys(ALERTS, ""))  # the sentence in each place
    is_refused: bool = False  # Train was pressed, and the sentence in `alert` says why nothing was queued
    proposed: str = ""  # the name that the server has put into the form last
    proposals: int = 0  # how often it has put one there
    trained: set[str] = field(default_factory=set)  # the jobs for which Train was pressed and which have not ended
    notes: tuple[str, ...] = ()  # on the files that were dropped last
    files_taken: int = 0  # how often files were dropped
    job_id: str = ""  # the job on show
    step: int = 0  # the kept step on show; 0 = the last
    choice: str = ""  # the file on show; '' = the newest
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def pictures(self) -> dict[str, Image.Image | None]:
        """Those of the pair on show."""
        return self.pairs.shown.pictures

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Replace the fields that `values` has; a caption is that of the pair that the page shows."""
        with self.lock:
            self.values = {**self.values, **{name: values[name] for name in FORM if name in values}}
            self.ways = {**self.ways, **{name: values[name] for name in WAYS if name in values}}
            if "pair_caption" in values:
                self.pairs.get(values.get("shown_pair", "")).caption = str(values["pair_caption"] or "")

    def set_pictures(self, shown_pair: str = "", **pictures: Any) -> None:
        """Keep some of PICTURES for the pair that the page shows, see `FormPair.put`."""
        with self.lock:
            self.pairs.get(shown_pair).put(**pictures)

    def take_request(self, request: Request, preset: str) -> None:
        """Fill the form as for this request."""
        pairs = [FormPair.of(source) for source in without_shared_mask(request).pairs]
        with self.lock:
            self.pairs.replace(pairs)
            self.set_values(form_of(request, preset))

    def propose(self, name: str) -> None:
        """Put a name into the form."""
        with self.lock:
            self.values = {**self.values, "name": name, "overwrite": False}
            self.proposed, self.proposals = name, self.proposals + 1

    def show(self, job_id: str) -> None:
        """Show another job, with its last kept step and its newest file."""
        with self.lock:
            if job_id != self.job_id:
                self.job_id, self.step, self.choice = job_id, 0, ""
