"""The settings in 'Advanced': which have no effect now, which a person has changed, and the row to search in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_addift.config.relevance import acts
from lib_addift.ui.form import SETTINGS, changed_settings
from lib_addift.ui.render import escape

SEARCH = (
    '<div class="addift-search"><label>Search the settings <input type="search" id="addift_search" '
    'placeholder="rank, mask, seed ..." autocomplete="off"></label>'
    '<label class="addift-tick"><input type="checkbox" id="addift_show_all"> <span>Show those without effect too'
    '</span></label><p id="addift_search_none" role="status" hidden>No setting has that in its name or its help.</p>'
    "</div>"
)


@dataclass(frozen=True)
class State:
    """Names of settings."""

    idle: tuple[str, ...]  # without effect beside the others
    changed: tuple[tuple[str, str], ...]  # a person has set these; with the default as text


def state(values: Mapping[str, Any]) -> State:
    """How the settings of the form stand."""
    idle = tuple(name for name in SETTINGS if not acts(name, values))
    changed = tuple((name, _text(default)) for name, default in changed_settings(values).items())
    return State(idle, changed)


def marks(state: State) -> str:
    """A style sheet that hides the settings without effect and marks the changed ones."""
    idle, changed = (", ".join(f"#addift_set_{name}" for name in names) for names in (state.idle, dict(state.changed)))
    hide = f"#addift_advanced:not(:has(#addift_show_all:checked)) :is({idle}){{display:none!important}}" if idle else ""
    mark = f"#addift_root :is({changed}){{box-shadow:inset 4px 0 0 var(--addift-accent)}}" if changed else ""
    return f"<style>{hide}{mark}</style>"


def changed(state: State, values: Mapping[str, Any]) -> str:
    """The changed settings, each with a button that resets it."""
    if not state.changed:
        return '<p class="addift-hint">All settings are as the preset and the method say.</p>'
    chips = "".join(_chip(name, _text(values[name]), default) for name, default in state.changed)
    every = (
        '<li><button type="button" data-addift-act="reset_all" data-addift-job="settings">Reset all</button></li>'
        if len(state.changed) > 1
        else ""
    )
    return (
        '<p class="addift-hint">Changed from what the preset and the method say:</p>'
        f'<ul class="addift-chips addift-row-acts" aria-label="Changed settings">{chips}{every}</ul>'
    )


def _chip(name: str, value: str, default: str) -> str:
    label = escape(SETTINGS[name].metadata["label"])
    return (
        f'<li><button type="button" data-addift-act="reset" data-addift-job="{name}" '
        f'aria-label="Reset {label} to {escape(default)}"><b>{label}</b> {escape(value)} '
        f'<span class="addift-was">↺ {escape(default)}</span></button></li>'
    )


def _text(value: Any) -> str:
    """A value as a person reads it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if value is None or value == "":
        return "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)[:40]
