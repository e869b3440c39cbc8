"""The worlds that the laboratory measures in, and their tasks."""

from __future__ import annotations

from collections.abc import Mapping

from lib_addift.experiments.lab import avatars, faces
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.experiments.lab.world import World

WORLDS: Mapping[str, World] = {world.name: world for world in (faces.FACES, faces.FACES_XL, avatars.AVATARS)}
TASKS: Mapping[str, Mapping[str, LabTask]] = {  # by world and name
    "faces": faces.TASKS,
    "faces-xl": faces.XL_TASKS,
    "avatars": avatars.TASKS,
}
