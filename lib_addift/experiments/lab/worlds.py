"""The worlds that the laboratory measures in, and their tasks."""

from __future__ import annotations

from collections.abc import Mapping

from lib_addift.experiments.lab import avatars, faces
from lib_addift.experiments.lab.tasks import LabTask
from lib_addift.experiments.lab.world import World

WORLDS: Mapping[str, World] = {world.name: world for world in (faces.FACES, avatars.AVATARS)}
TASKS: Mapping[str, Mapping[str, LabTask]] = {"faces": faces.TASKS, "avatars": avatars.TASKS}  # by world and name
