"""What each button of the tab 'Tools' does. No gradio."""

from __future__ import annotations

from lib_addift.ui import tools_view
from lib_addift.ui.handlers import Changes, Handlers, Values, report_errors_in


class ToolHandlers:
    """The server side of the tab; it shares its state with the other tabs."""

    def __init__(self, handlers: Handlers) -> None:
        self.draft, self.panels, self.tools = handlers.draft, handlers.panels, handlers.tools

    @report_errors_in("tools_alert")
    def choose_tool(self, values: Values) -> Changes:
        """Another operation was chosen: show its fields and no error of the one before."""
        self.draft.alerts["tools_alert"] = ""
        self.tools.task.set_error("")
        self.tools.set_values(values)
        return {}

    @report_errors_in("tools_alert")
    def refresh_loras(self, values: Values) -> Changes:
        """List the LoRAs of the folder anew."""
        self.tools.set_values(values)
        self.tools.refresh_names()
        return {"tools_loras": tools_view.chosen(self.tools)}

    @report_errors_in("tools_alert")
    def use_tool(self, values: Values) -> Changes:
        """Start the operation. The permission to overwrite is for this one only."""
        self.draft.alerts["tools_alert"] = ""
        self.tools.set_values(values)
        self.tools.start(self.draft.values, self.draft.pictures)
        self.tools.set_values({"tools_overwrite": False})
        return {"tools_overwrite": False}
