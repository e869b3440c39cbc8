"""What the WebUI loads: registers the tab, the LoRA tag and the API. Everything else is in lib_addift."""

from modules import script_callbacks

from lib_addift import webui

script_callbacks.on_ui_tabs(webui.tabs)
script_callbacks.on_app_started(webui.start)
