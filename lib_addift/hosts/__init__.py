"""The places where an SD1.x model is loaded. Only here anybody asks which one it is."""

from __future__ import annotations

import importlib.util

from lib_addift.diffusion.host import Host
from lib_addift.errors import HostError


def detect_host() -> Host:
    """The WebUI that this Python runs in, told by the packages that only it has. Raises HostError outside of one."""
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
    """Whether `module` is there, without importing more of it than its parents."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # not even its parent
        return False
