"""The form as data: its fields, made from TrainConfig, and the draft that survives a reload of the page. No gradio."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from lib_addift.config.presets import DEFAULT_PRESET, PRESETS, preset_for
from lib_addift.config.settings import TrainConfig
from lib_addift.data.pictures import is_supported, load_picture
from lib_addift.errors import PictureError
from lib_addift.training.events import Request
from lib_addift.training.methods import from_mapping, make_config, method_settings

SETTINGS = {setting.name: setting for setting in dataclasses.fields(TrainConfig)}
FORM = ("name", "overwrite", "preset", *SETTINGS)  # everything in the form but the pictures
PICTURES = ("original", "target")
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


@dataclass
class Draft:
    """What was put into the form, and what is on show. Changes of more than one field happen under the lock."""

    values: dict[str, Any] = field(default_factory=empty_form)
    pictures: dict[str, Image.Image | None] = field(default_factory=lambda: dict.fromkeys(PICTURES))
    digests: dict[str, str] = field(default_factory=lambda: dict.fromkeys(PICTURES, ""))  # of the pictures
    alerts: dict[str, str] = field(default_factory=lambda: dict.fromkeys(ALERTS, ""))  # the sentence in each place
    job_id: str = ""  # the job on show
    step: int = 0  # the kept step on show; 0 = the last
    choice: str = ""  # the file on show; '' = the newest
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Replace the fields that `values` has."""
        with self.lock:
            self.values = {**self.values, **{name: values[name] for name in FORM if name in values}}

    def set_pictures(self, **pictures: Any) -> None:
        """Decode and keep `original`, `target` or both, upright and in a mode that browsers show; None empties one."""
        decoded = {role: _decoded(picture) for role, picture in pictures.items()}
        with self.lock:
            for role, picture in decoded.items():
                self.pictures[role] = picture
                self.digests[role] = _digest(picture)

    def show(self, job_id: str) -> None:
        """Show another job, with its last kept step and its newest file."""
        with self.lock:
            if job_id != self.job_id:
                self.job_id, self.step, self.choice = job_id, 0, ""


def _decoded(picture: Any) -> Image.Image | None:
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


def _digest(picture: Image.Image | None) -> str:
    if picture is None:
        return ""
    return hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).hexdigest()
