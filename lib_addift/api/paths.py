"""Files that requests name: only those in the folders that are open to the API."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_addift.config.settings import TrainConfig
from lib_addift.errors import AddiftError, ConfigError, PictureError

_PATHS = {field.name: field.metadata["path"] for field in dataclasses.fields(TrainConfig) if "path" in field.metadata}
# Names that are devices in every folder of Windows, whatever ending they have.
_DEVICE = re.compile(r" *(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *([.:].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Folders:
    """The folders whose files requests may name: those of pictures, and that of the LoRAs."""

    pictures: tuple[Path, ...]
    loras: tuple[Path, ...]

    def setting(self, kind: str, given: str, name: str) -> Path:
        """The file of a setting that holds a path; `kind` is what the setting declares."""
        if kind == "picture":
            return allowed_file(given, name, self.pictures)
        if kind == "lora":
            return _allowed(given, name, self.loras, error=ConfigError, remedy="put it there")
        raise ValueError(f"the setting {name} declares an unknown kind of path, '{kind}'")

    def checked_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with their paths made absolute. Raises PictureError or ConfigError for one that is not open."""
        checked = dict(settings)
        for name, kind in _PATHS.items():
            given = checked.get(name)
            if isinstance(given, str) and given:  # what is no text is refused with all other wrong types
                checked[name] = str(self.setting(kind, given, name))
        return checked


def allowed_file(given: str, field: str, folders: Sequence[Path]) -> Path:
    """The picture that `given` names, absolute or within one of `folders`, if it lies in one of them, links followed.

    Raises PictureError, with the same words whether a file elsewhere exists or not.
    """
    if not folders:
        raise PictureError(f"{field} is refused, as this WebUI opens no folders to the API: send base64 instead.")
    return _allowed(given, field, folders, error=PictureError, remedy="put it there, or send base64 instead")


def _allowed(given: str, field: str, folders: Sequence[Path], *, error: type[AddiftError], remedy: str) -> Path:
    for folder in folders:
        file = None if _is_elsewhere(given) else _inside(folder, given)
        if file is not None:
            return file
    raise error(
        f"{field} = {given[:300]!r} is no file in a folder that this WebUI opens to the API "
        f"({', '.join(map(str, folders))}): {remedy}."
    )


def _is_elsewhere(given: str) -> bool:
    r"""Whether a path is a server's (\\server\share) or a device's (\\.\PhysicalDrive0) on Windows, on every system.

    By its text alone: merely asking Windows for such a path logs in at the server.
    """
    return given[:2] in ("\\\\", "//", "\\/", "/\\")


def _inside(folder: Path, given: str) -> Path | None:
    """The existing file in `folder`, or None."""
    try:
        root = folder.resolve()
        named = Path(os.path.abspath(folder / given))  # as text only: what lies outside is not asked for
        start = next((each for each in (root, Path(os.path.abspath(folder))) if named.is_relative_to(each)), None)
        if start is None or any(_DEVICE.fullmatch(part) for part in named.relative_to(start).parts):
            return None
        real = named.resolve(strict=True)
        return real if real.is_relative_to(root) and real.is_file() else None
    except (OSError, ValueError, RuntimeError):  # missing, or no name of a file at all, or a link to itself
        return None
