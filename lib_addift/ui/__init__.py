"""The tab: its state, panels and handlers without gradio, its layout with it, and a page of its own for it.

tab.py builds the tab and standalone.py serves it; both import gradio, which the modules below them do not need.
"""
