"""The HTTP API under /addift/v1. Only this package imports fastapi; a WebUI and gradio bring it along."""

from lib_addift.api.routes import add_routes

__all__ = ["add_routes"]
