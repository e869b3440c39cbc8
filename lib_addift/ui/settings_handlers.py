"""What the settings' own buttons do: back to what the preset and the method say. No gradio."""

from __future__ import annotations

from lib_addift.ui.form import changed_settings
from lib_addift.ui.handlers import Changes, Handlers, Values, report_errors_in


class SettingsHandlers:
    """The server side of 'Advanced'."""

    def __init__(self, handlers: Handlers) -> None:
        self._form = handlers
        self.draft, self.panels = handlers.draft, handlers.panels

    @report_errors_in("alert")
    def press(self, values: Values) -> Changes:
        """Reset one setting, as in 'reset rank', or all: 'reset_all settings'."""
        action, _, name = str(values["act"]).partition(" ")
        changed = changed_settings(self.draft.values)
        changes = {key: default for key, default in changed.items() if action == "reset_all" or key == name}
        self.draft.set_values(changes)
        self._form.look_again()
        return changes
