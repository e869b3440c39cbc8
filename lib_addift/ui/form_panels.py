"""The panels of the form: the pairs, the name, and the settings. No gradio."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lib_addift.errors import ConfigError, LoraFileError
from lib_addift.jobs.queue import Jobs
from lib_addift.ui import naming, pairs_view, render, settings_view
from lib_addift.ui.doctor import Doctor
from lib_addift.ui.drawing import PairDrawing
from lib_addift.ui.form import Draft, Props, config_of
from lib_addift.ui.pairs import PICTURES

FIELDS_OF_A_PAIR = (*PICTURES, "shown_pair", "pair_caption", "files")
FORM_PANELS = (
    *FIELDS_OF_A_PAIR, "doctor", "pairs", "pairs_faces", "drawing", "draw_words",
    "draw_variations", "stop_drawing", "name", "name_note", "overwrite", "settings_note", "settings_marks",
    "settings_changed",
)  # fmt: skip
Panel = tuple[object, Callable[[], Any]]  # a key that changes when the content does, and what makes the content


class FormPanels:
    """Makes the panels from the draft."""

    def __init__(self, jobs: Jobs, draft: Draft, drawing: PairDrawing) -> None:
        self._jobs, self._draft, self._drawing = jobs, draft, drawing
        self._doctor = Doctor(jobs.host.picture_side)

    def all(self) -> dict[str, Panel]:
        """Every panel by name."""
        draft, values = self._draft, dict(self._draft.values)
        self._propose_next_name()
        alerts = {place: (text, functools.partial(render.error, text)) for place, text in draft.alerts.items()}
        return {
            **self._slots(), **self._pair_panels(values), **self._drawing_panels(), **self._name_panels(),
            **_settings_panels(values), **alerts,
        }  # fmt: skip

    def _slots(self) -> dict[str, Panel]:
        """The fields of the pair on show, sent when something else than the page has changed them."""
        pairs = self._draft.pairs
        shown, revision = pairs.shown, pairs.revision
        slots: dict[str, Panel] = {role: (revision, functools.partial(shown.pictures.get, role)) for role in PICTURES}
        slots["pair_caption"] = revision, lambda: shown.caption
        slots["shown_pair"] = revision, lambda: shown.key
        slots["files"] = self._draft.files_taken, lambda: None
        return slots

    def _pair_panels(self, values: Mapping[str, Any]) -> dict[str, Panel]:
        pairs, doctor, notes = self._draft.pairs, self._doctor, self._draft.notes
        shown = pairs.shown
        left = doctor.examine_some(pairs, values)
        pictures = [(pair.key, *pair.digests.values()) for pair in list(pairs.items)]
        return {
            "doctor": (
                (shown.key, doctor.key(shown, values)),
                lambda: pairs_view.doctor(shown, None if shown.missing else doctor.diagnose(shown, values)),
            ),
            "pairs": (
                (pairs_view.list_key(pairs, doctor, values), left, notes),
                lambda: pairs_view.cards(pairs, doctor, values, left, notes),
            ),
            "pairs_faces": (pictures, lambda: pairs_view.thumbnail_styles(pairs)),
        }

    def _drawing_panels(self) -> dict[str, Panel]:
        drawing, is_busy = self._drawing, self._drawing.task.is_busy
        hidden = (is_busy, lambda: Props(visible=not is_busy))
        return {
            "drawing": (drawing.task.version, lambda: pairs_view.drawing(drawing)),
            "draw_words": hidden,
            "draw_variations": hidden,
            "stop_drawing": (is_busy, lambda: Props(visible=is_busy)),
        }

    def _name_panels(self) -> dict[str, Panel]:
        draft, name = self._draft, str(self._draft.values["name"] or "")
        is_taken = naming.is_taken(self._jobs.host.lora_dir, name)
        proposed, count = draft.proposed, draft.proposals
        is_current = count > 0 and proposed == name
        return {
            "name": (count, lambda: Props(value=proposed) if is_current else Props()),
            "name_note": ((name, is_taken), lambda: _about_name(name, is_taken)),
            # Each name needs a permission of its own, so that a change of the name takes it back.
            "overwrite": ((name, is_taken), lambda: Props(visible=is_taken, value=False)),
        }

    def _propose_next_name(self) -> None:
        """When a training ends whose name is still in the form: the next free name, and no warning of the taken one."""
        draft = self._draft
        ended = {job.id: job for job in self._jobs.all() if job.id in draft.trained and job.has_ended}
        for job in ended.values():
            draft.trained.discard(job.id)
            free = naming.next_free(self._jobs.host.lora_dir, job.name)
            if free != job.name and draft.values["name"] == job.name:
                draft.propose(free)


def _settings_panels(values: Mapping[str, Any]) -> dict[str, Panel]:
    problem, state = settings_problem(values), settings_view.state(values)
    return {
        "settings_note": (problem, lambda: render.error(problem)),
        "settings_marks": (state, lambda: settings_view.marks(state)),
        "settings_changed": (state.changed, lambda: settings_view.changed(state, values)),
    }


def _about_name(name: str, is_taken: bool) -> str:
    """What is wrong with the name, or that it is taken."""
    if not name:
        return ""
    try:
        naming.check(name)
    except LoraFileError as error:
        return render.error(str(error))
    return render.note("a LoRA of this name exists: allow overwriting, or choose another name") if is_taken else ""


def settings_problem(values: Mapping[str, Any]) -> str:
    """Why the settings of the form cannot be used, or ''."""
    try:
        config_of(values)
    except ConfigError as error:
        return str(error)
    return ""
