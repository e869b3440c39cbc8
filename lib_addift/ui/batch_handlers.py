"""What each button of the tab 'Batch' does. No gradio."""

from __future__ import annotations

from lib_addift.ui.form import base_settings_of
from lib_addift.ui.handlers import Changes, Handlers, Values, report_errors_in


class BatchHandlers:
    """The server side of the tab; it shares its state with the other tabs."""

    def __init__(self, handlers: Handlers) -> None:
        self.draft, self.panels, self.batch = handlers.draft, handlers.panels, handlers.batch

    @report_errors_in("batch_alert")
    def scan_folder(self, values: Values) -> Changes:
        """Find the sets of a folder, with the settings of the tab 'Pair' for all of them."""
        self.draft.alerts["batch_alert"] = ""
        settings = base_settings_of(self.draft.values)
        self.batch.scan(str(values["batch_folder"] or ""), settings, overwrite=bool(values["batch_overwrite"]))
        return {}

    @report_errors_in("batch_alert")
    def allow_overwriting(self, values: Values) -> Changes:
        """Scan again after the permission was given or taken back, as other sets can be trained now."""
        return self.scan_folder(values) if self.batch.rows else {}

    @report_errors_in("batch_alert")
    def train_all(self, values: Values) -> Changes:
        """Queue the sets on show that can be trained."""
        self.draft.alerts["batch_alert"] = ""
        self.batch.queue_all(base_settings_of(self.draft.values), overwrite=bool(values["batch_overwrite"]))
        return {}
