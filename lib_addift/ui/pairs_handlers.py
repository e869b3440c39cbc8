"""What can be done with the form's pairs: files dropped, pairs drawn, the buttons of their cards. No gradio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lib_addift.errors import PictureError
from lib_addift.ui.drawing import name_from_words
from lib_addift.ui.handlers import Changes, Handlers, Values, report_errors_in
from lib_addift.ui.naming import next_free
from lib_addift.ui.pair_files import pairs_of
from lib_addift.ui.pairs import FormPair


class PairsHandlers:
    """The server side of the three ways in and of the list of pairs."""

    def __init__(self, handlers: Handlers) -> None:
        self._form = handlers
        self.jobs, self.draft, self.panels = handlers.jobs, handlers.draft, handlers.panels
        self.drawing = handlers.drawing

    @report_errors_in("alert")
    def add_files(self, values: Values) -> Changes:
        """Files were dropped, pasted or chosen: pairs of them, or a picture for the next empty slot."""
        files = [Path(getattr(file, "name", file)) for file in values["files"] or []]
        if not files:
            return {}
        draft = self.draft
        draft.alerts["alert"], draft.notes, draft.files_taken = "", (), draft.files_taken + 1
        pairs, singles, notes = pairs_of(files)
        with draft.lock:
            draft.notes = tuple(notes)
            draft.pairs.add(pairs)
            self._place(singles)
        self._form.look_again()
        return {}

    def _place(self, singles: Sequence[Image.Image]) -> None:
        """Put a single picture into the next empty slot of the pair on show, or into a new pair."""
        pairs = self.draft.pairs
        for picture in singles:
            pair = pairs.shown
            if not pair.missing:
                pair = FormPair()
                pairs.add([pair])
            pair.put(**{pair.missing[0]: picture})
            pairs.show(pair)

    @report_errors_in("alert")
    def new_pair(self, _values: Values) -> Changes:
        """An empty pair, in the slots."""
        pairs = self.draft.pairs
        with self.draft.lock:
            empty = next((pair for pair in pairs.items if pair.is_empty), None)
            if empty is None:
                pairs.add([FormPair()])
            else:
                pairs.show(empty)
        return {}

    @report_errors_in("alert")
    def draw_words(self, values: Values) -> Changes:
        """Draw pairs from the two prompts; a LoRA without a name gets one of the words."""
        self._told(values)
        self.drawing.start_words(values)
        if not str(values["name"] or "").strip():
            name = name_from_words(str(values["words_original"]), str(values["words_target"]))
            self.draft.propose(next_free(self.jobs.host.lora_dir, name))
        return {}

    @report_errors_in("alert")
    def draw_variations(self, values: Values) -> Changes:
        """Draw the change of the pair on show on other pictures."""
        self._told(values)
        self.drawing.start_vary(values)
        return {}

    @report_errors_in("alert")
    def stop_drawing(self, _values: Values) -> Changes:
        """End the drawing."""
        self.drawing.stop()
        return {}

    @report_errors_in("alert")
    def press(self, values: Values) -> Changes:
        """A button in a card was pressed; `act` names it and the pair, as in 'pair_swap p3'."""
        action, _, key = str(values["act"]).partition(" ")
        pairs = self.draft.pairs
        with self.draft.lock:
            pair = next((pair for pair in pairs.items if pair.key == key), None)
            if pair is None:
                raise PictureError("this pair is gone: choose another one.")
            actions: dict[str, Callable[[FormPair], Any]] = {
                "pair_show": pairs.show, "pair_swap": self._swap, "pair_tick": _tick,
                "pair_remove": lambda gone: pairs.remove([gone]),
            }  # fmt: skip
            actions[action](pair)
        self._form.look_again()
        return {}

    def _swap(self, pair: FormPair) -> None:
        pair.swap()
        self.draft.pairs.revision += pair is self.draft.pairs.shown

    def _told(self, values: Values) -> None:
        """Keep what the page has in its fields."""
        self.draft.alerts["alert"] = ""
        self.draft.set_values(values)


def _tick(pair: FormPair) -> None:
    pair.is_on = not pair.is_on
