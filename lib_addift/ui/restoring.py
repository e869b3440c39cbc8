"""What an opened page gets of what the server remembers: not what a person has filled in meanwhile. No gradio.

The server's answer can come late, and it would replace whatever stands in a field by then. So it goes into hidden
components, the stash, and JavaScript moves it from there into the fields that nobody has touched, all in one go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib_addift.ui.form import SETTINGS, Props
from lib_addift.ui.pairs import PICTURES

Changes = dict[str, Any]
STASH_PICTURES = tuple(f"stash_{role}" for role in PICTURES)
STASH = ("stash", *STASH_PICTURES)


def stashed(
    restore: Callable[[Mapping[str, Any]], Changes], initial: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], Changes]:
    """The handler `restore` with the values of fields in the stash; its other changes stay as they are.

    Args:
        initial: the fields and what they hold when the page opens, without the pictures, which hold nothing then.

    The stash holds, as JSON, for each field by name: what it held at first, what it should hold, and whether it is a
    setting, which a preset may fill in.
    """

    def call(values: Mapping[str, Any]) -> Changes:
        changes = restore(values)
        fields = {}
        for name, at_first in initial.items():
            value = changes.pop(name, at_first)
            if isinstance(value, Props):
                changes[name] = Props({key: each for key, each in value.items() if key != "value"})
                value = value.get("value", at_first)
            fields[name] = [at_first, value, name in SETTINGS]
        pictures = {stash: changes.pop(role) for role, stash in zip(PICTURES, STASH_PICTURES, strict=True)}
        return {**changes, **pictures, "stash": json.dumps(fields)}

    return call


def script(names: Sequence[str]) -> str:
    """The JavaScript between the stash with the fields `names`, in, and these fields with the page's mark, out."""
    return f"(...values) => window.addift.restored({json.dumps([*names])}, values)"
