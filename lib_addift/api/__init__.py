"""The HTTP API under /addift/v1. Only this package imports fastapi, which every WebUI and gradio install."""
