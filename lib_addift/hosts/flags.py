"""The flags of a WebUI's start that messages name: what they are called in the WebUI that runs."""

from __future__ import annotations

# Of the Forge family; the later names are Forge Neo's.
FP32 = ("--all-in-fp32", "--force-fp32")
FP16 = ("--all-in-fp16", "--force-fp16")
ALL_ON_THE_GPU = ("--always-gpu", "--gpu-only")


def known_flag(options: object, names: tuple[str, ...]) -> str:
    """That of the `names` of one flag which the WebUI's parsed command line `options` has; without any the first."""
    return next((name for name in names if hasattr(options, name.lstrip("-").replace("-", "_"))), names[0])
