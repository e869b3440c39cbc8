"""Where an SD1.x model is loaded: the WebUIs, and the program without one. Only this module asks which one it is."""

from __future__ import annotations

import importlib.util

from lib_addift.diffusion.host import Host
from lib_addift.errors import HostError


def detect_host() -> Host:
    """The host for the WebUI that runs, known by the packages that only it has. Raises HostError outside of a WebUI."""
    if not _has("modules.call_queue"):
        raise HostError("this is not a WebUI: start the tab on its own with 'python3 install.py ui'.")
    if _has("backend.memory_management"):
        from lib_addift.hosts.forge import ForgeHost

        return ForgeHost()
    if _has("ldm_patched.modules.model_management"):
        from lib_addift.hosts.reforge import LdmPatchedHost

        return LdmPatchedHost()
    from lib_addift.hosts.a1111 import A1111Host

    return A1111Host()


def _has(module: str) -> bool:
    """Whether `module` can be imported. It imports the parents of `module`, not `module`."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of a parent
        return False
