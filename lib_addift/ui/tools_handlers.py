"""What each button of the tab 'Tools' does. No gradio."""

from __future__ import annotations

from lib_addift.ui import tools_view
from lib_addift.ui.handlers import Changes, Handlers, Values, report_errors_in


class ToolHandlers:
    """The server side of the tab; it shares the draft, the panels and the tools with all the others."""

    def __init__(self, handlers: Handlers) -> None:
        self.draft, self.panels, self.tools = handlers.draft, handlers.panels, handlers.tools

    @report_errors_in("tools_alert")
    def choose_tool(self, values: Values) -> Changes:
        """Another operation was chosen: its fields come, others go."""
        self.draft.alerts["tools_alert"] = ""
        self.tools.task.set_error("")
        self.tools.set_values(values)
        return {}

    @report_errors_in("tools_alert")
    def look_at_loras(self, values: Values) -> Changes:
        """Look anew which LoRAs there are."""
        self.tools.set_values(values)
        self.tools.refresh_names()
        return {"tools_loras": tools_view.chosen(self.tools)}

    @report_errors_in("tools_alert")
    def use_tool(self, values: Values) -> Changes:
        """Begin the operation. The permission to overwrite is for this one only."""
        self.draft.alerts["tools_alert"] = ""
        self.tools.set_values(values)
        self.tools.start(self.draft.values, self.draft.pictures)
        self.tools.set_values({"tools_overwrite": False})
        return {"tools_overwrite": False}
