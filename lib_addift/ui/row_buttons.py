"""The buttons that stand in HTML: in the rows of the queue, the cards of the pairs, and the settings. No gradio."""

from __future__ import annotations

from lib_addift.ui.handlers import Changes, Values
from lib_addift.ui.pairs_handlers import PairsHandlers
from lib_addift.ui.queue_handlers import QueueHandlers
from lib_addift.ui.settings_handlers import SettingsHandlers


class RowButtons:
    """Gives each press to the part of the tab whose button it is."""

    def __init__(self, queue: QueueHandlers, pairs: PairsHandlers, settings: SettingsHandlers) -> None:
        self._queue, self._pairs, self._settings = queue, pairs, settings

    def press_row_button(self, values: Values) -> Changes:
        """`act` names the button and what it belongs to, as in 'retry 1234abcd'; '' for a press that was brought."""
        act = str(values["act"] or "")
        if act.startswith("pair_"):
            return self._pairs.press(values)
        if act.startswith("reset"):
            return self._settings.press(values)
        return self._queue.press(values)
